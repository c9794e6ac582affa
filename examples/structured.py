"""Read facts out of a text into a pydantic model; a grammar holds the completion to the model's JSON Schema."""

from __future__ import annotations

import os
from typing import Literal

from openai import OpenAI
from pydantic import BaseModel


class Order(BaseModel):
    """An order that a customer wrote as a sentence."""

    customer: str
    product: str
    quantity: int
    delivery: Literal["pickup", "post"]


client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("LANTERN_API_KEY", "none"),
)

completion = client.chat.completions.parse(
    model="smollm2-135m-instruct",
    messages=[
        {"role": "system", "content": "Extract the order as JSON."},
        {"role": "user", "content": "Hello, this is Mary. Please send me 12 candles by post."},
    ],
    response_format=Order,
    temperature=0,
    max_completion_tokens=200,
)
order = completion.choices[0].message.parsed
if order is None:
    raise SystemExit(f"The completion ended early: {completion.choices[0].finish_reason}")
print(order.model_dump_json(indent=2))
