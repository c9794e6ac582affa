"""Print a completion while it is generated, and the token counts at the end."""

from __future__ import annotations

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("LANTERN_API_KEY", "none"),
)

# Leaving the `with` block closes the connection, which frees the request's slot on the server.
with client.chat.completions.create(
    model="smollm2-135m-instruct",
    messages=[{"role": "user", "content": "Describe a lighthouse in two sentences."}],
    temperature=0,
    max_completion_tokens=80,
    stream=True,
    stream_options={"include_usage": True},
) as stream:
    for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        if chunk.usage is not None:
            print(f"\n({chunk.usage.prompt_tokens} prompt tokens, {chunk.usage.completion_tokens} completion tokens)")
