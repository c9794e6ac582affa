"""Search a few notes by meaning. Vectors have unit length, so their dot product is the cosine similarity."""

from __future__ import annotations

import os

from openai import OpenAI

NOTES = [
    "The spare key hangs behind the cellar door.",
    "Water the tomatoes every second evening.",
    "The boiler is serviced in October.",
    "Grandmother's bread needs twelve hours to rise.",
]
QUESTION = "When does the heating get its maintenance?"

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("LANTERN_API_KEY", "none"),
)

# One request embeds everything; a vector does not depend on what else is in its request.
response = client.embeddings.create(model="all-minilm-l6-v2", input=[QUESTION, *NOTES])
question, *notes = (item.embedding for item in response.data)
similarities = [sum(a * b for a, b in zip(question, note, strict=True)) for note in notes]

print(QUESTION)
for similarity, note in sorted(zip(similarities, NOTES, strict=True), reverse=True):
    print(f"{similarity:6.3f}  {note}")
