"""Hold a conversation of two turns. The server computes the shared beginning only once."""

from __future__ import annotations

import os

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("LANTERN_API_KEY", "none"),
)
messages: list[ChatCompletionMessageParam] = []

for question in ("Name the capital city of France.", "Which river flows through it?"):
    messages.append({"role": "user", "content": question})
    completion = client.chat.completions.create(
        model="smollm2-135m-instruct", messages=messages, temperature=0, max_completion_tokens=60
    )
    answer = completion.choices[0].message.content or ""
    messages.append({"role": "assistant", "content": answer})
    usage = completion.usage
    cached = usage.prompt_tokens_details.cached_tokens if usage and usage.prompt_tokens_details else 0
    print(f"> {question}\n{answer}\n({cached} prompt tokens came from the prefix cache)\n")
