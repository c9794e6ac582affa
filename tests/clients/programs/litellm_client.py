"""LiteLLM, as most gateways and agents call an OpenAI-compatible server."""

# mypy: ignore-errors
from __future__ import annotations

import asyncio
import json
import os

import litellm

MODEL, ENCODER = f"openai/{os.environ['CHAT_MODEL']}", f"openai/{os.environ['EMBEDDING_MODEL']}"
SERVER = {"api_base": os.environ["BASE_URL"], "api_key": "any", "num_retries": 0}
QUESTION = [{"role": "user", "content": "Tell me about the weather in Paris."}]
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}

whole = litellm.completion(model=MODEL, messages=QUESTION, temperature=0, max_tokens=15, **SERVER)
chunks = list(
    litellm.completion(
        model=MODEL,
        messages=QUESTION,
        temperature=0,
        max_tokens=15,
        stream=True,
        stream_options={"include_usage": True},
        **SERVER,
    )
)
rebuilt = litellm.stream_chunk_builder(chunks, messages=QUESTION)
assert rebuilt.choices[0].message.content == whole.choices[0].message.content
assert rebuilt.choices[0].finish_reason == whole.choices[0].finish_reason == "length"
assert rebuilt.usage.completion_tokens == whole.usage.completion_tokens == 15

for stream in (False, True):
    answer = litellm.completion(
        model=MODEL, messages=QUESTION, tools=[TOOL], tool_choice="required", stream=stream, **SERVER
    )
    choice = (litellm.stream_chunk_builder(list(answer)) if stream else answer).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert json.loads(choice.message.tool_calls[0].function.arguments)["city"] in {"Paris", "Rome"}

schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": CITY, "strict": True}}
answer = litellm.completion(model=MODEL, messages=QUESTION, response_format=schema, **SERVER)
assert json.loads(answer.choices[0].message.content)["city"] in {"Paris", "Rome"}

assert len(litellm.embedding(model=ENCODER, input=["a", "b"], encoding_format="float", **SERVER).data) == 2
assert litellm.text_completion(model=f"text-completion-{MODEL}", prompt="One, two,", max_tokens=3, **SERVER).choices

for kind, arguments in (
    (litellm.ContextWindowExceededError, {"messages": [{"role": "user", "content": "word " * 5000}]}),
    (litellm.NotFoundError, {"messages": QUESTION, "model": "openai/none"}),
    (litellm.BadRequestError, {"messages": QUESTION, "temperature": 9}),
):
    try:
        litellm.completion(**{"model": MODEL, **SERVER, **arguments})
    except kind:
        continue
    raise AssertionError(f"{kind} was expected")


async def several() -> None:
    answers = await asyncio.gather(
        *(litellm.acompletion(model=MODEL, messages=QUESTION, max_tokens=4, **SERVER) for _ in range(4))
    )
    assert all(a.choices[0].message.content for a in answers)


asyncio.run(several())
