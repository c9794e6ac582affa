"""Let the model call a function: ask, run the call, send its result back, read the answer."""

from __future__ import annotations

import json
import os

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

MODEL = "smollm2-135m-instruct"


def read_temperature(room: str) -> str:
    """Stand in for a sensor. The smallest models understand a sentence better than JSON."""
    return f"The {room} has 21.5 degrees Celsius."


TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "read_temperature",
        "description": "Read the temperature of a room.",
        "parameters": {
            "type": "object",
            "properties": {"room": {"type": "string", "enum": ["kitchen", "bedroom", "cellar"]}},
            "required": ["room"],
        },
    },
}

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("LANTERN_API_KEY", "none"),
)
messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "How warm is it in the kitchen?"}]

# "required" forces a call on any model: a grammar holds it to the schema. With "auto" the model decides.
first = client.chat.completions.create(
    model=MODEL, messages=messages, tools=[TOOL], tool_choice="required", temperature=0, max_completion_tokens=100
)
for call in first.choices[0].message.tool_calls or []:
    if call.type != "function":
        continue
    name, arguments = call.function.name, call.function.arguments
    result = read_temperature(**json.loads(arguments))
    print(f"{name}({arguments}) -> {result}")
    messages += [
        {
            "role": "assistant",
            "tool_calls": [{"id": call.id, "type": "function", "function": {"name": name, "arguments": arguments}}],
        },
        {"role": "tool", "tool_call_id": call.id, "content": result},
    ]

second = client.chat.completions.create(
    model=MODEL, messages=messages, tools=[TOOL], tool_choice="none", temperature=0, max_completion_tokens=100
)
print(second.choices[0].message.content)
