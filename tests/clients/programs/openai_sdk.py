"""OpenAI's own SDK for Python, of any major version: every call that a text-only server answers."""

# mypy: ignore-errors
from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from typing import Literal

import openai
import pydantic

BASE_URL, CHAT, ENCODER = os.environ["BASE_URL"], os.environ["CHAT_MODEL"], os.environ["EMBEDDING_MODEL"]
QUESTION = [{"role": "user", "content": "Tell me about the weather in Paris."}]
SLOT = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SLOT}}


class Report(pydantic.BaseModel):
    city: Literal["Paris", "Rome"]
    degrees: int
    note: str | None


def check_chat(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=CHAT, messages=QUESTION, temperature=0, max_tokens=20)
    raw = client.chat.completions.with_raw_response.create(model=CHAT, messages=QUESTION, temperature=0, max_tokens=20)
    assert raw.headers["x-request-id"]
    assert raw.parse().choices[0].message.content == whole.choices[0].message.content
    chunks = list(
        client.chat.completions.create(model=CHAT, messages=QUESTION, temperature=0, max_tokens=20, stream=True)
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks][-1] == whole.choices[0].finish_reason


def check_stream_helper(client: openai.OpenAI) -> None:
    rest = {"stop": [" the", ".", ","], "logprobs": True, "stream_options": {"include_usage": True}}
    with client.chat.completions.stream(model=CHAT, messages=QUESTION, temperature=0, max_tokens=300, **rest) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done", "logprobs.content.delta"} <= kinds
    assert final.choices[0].finish_reason == "stop"
    assert final.usage.completion_tokens >= len(final.choices[0].logprobs.content) > 0


def check_parse(client: openai.OpenAI) -> None:
    arguments = {"model": CHAT, "messages": QUESTION, "response_format": Report, "temperature": 0, "max_tokens": 300}
    parsed = client.chat.completions.parse(**arguments).choices[0].message.parsed
    assert parsed.city in {"Paris", "Rome"}
    with client.chat.completions.stream(**arguments) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.parsed == parsed
    try:
        client.chat.completions.parse(**{**arguments, "max_tokens": 2})
    except openai.LengthFinishReasonError:
        pass
    else:
        raise AssertionError("an answer that was cut has to be told")


def check_tools(client: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(Report, name="report")
    arguments = {"model": CHAT, "messages": QUESTION, "tools": [tool], "tool_choice": "required", "max_tokens": 300}
    choice = client.chat.completions.parse(**arguments).choices[0]
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0]
    assert isinstance(call.function.parsed_arguments, Report)
    with client.chat.completions.stream(**arguments, seed=1) as stream:
        kinds = {event.type for event in stream}
    assert "tool_calls.function.arguments.done" in kinds
    turns = [*QUESTION, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"}]
    answer = client.chat.completions.create(model=CHAT, messages=turns, tools=[TOOL], max_tokens=5)
    assert answer.usage.completion_tokens > 0


def check_the_rest(client: openai.OpenAI) -> None:
    assert {CHAT, ENCODER} <= {m.id for m in client.models.list()}
    assert client.models.retrieve(CHAT).object == "model"
    assert client.completions.create(model=CHAT, prompt="One, two,", max_tokens=3).choices[0].text
    vectors = client.embeddings.create(model=ENCODER, input=["a", "b"]).data
    plain = client.embeddings.create(model=ENCODER, input=["a", "b"], encoding_format="float").data
    for vector, same in zip(vectors, plain, strict=True):
        assert all(abs(x - y) < 1e-6 for x, y in zip(vector.embedding, same.embedding, strict=True))


def refusal(kind: type[openai.APIStatusError], call: Callable[[], object]) -> openai.APIStatusError:
    try:
        call()
    except kind as err:
        return err
    raise AssertionError(f"{kind} was expected")


def check_errors(client: openai.OpenAI) -> None:
    create = client.chat.completions.create
    missing = refusal(openai.NotFoundError, lambda: create(model="none", messages=QUESTION))
    assert (missing.code, missing.param) == ("model_not_found", "model")
    assert missing.request_id
    long = [{"role": "user", "content": "word " * 5000}]
    too_long = refusal(openai.BadRequestError, lambda: create(model=CHAT, messages=long, stream=True))
    assert too_long.code == "context_length_exceeded"
    empty = refusal(openai.BadRequestError, lambda: client.embeddings.create(model=ENCODER, input=""))
    assert empty.param == "input"


async def check_async() -> None:
    async with openai.AsyncOpenAI(base_url=BASE_URL, api_key="any", max_retries=0) as client:
        stream = await client.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=50, stream=True)
        async for _ in stream:
            break
        await stream.close()
        answers = await asyncio.gather(
            *(client.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=5) for _ in range(6))
        )
        assert all(answer.choices[0].message.content for answer in answers)
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": SLOT}}
        answer = await client.chat.completions.create(model=CHAT, messages=QUESTION, response_format=schema)
        assert json.loads(answer.choices[0].message.content)["city"] in {"Paris", "Rome"}


assert openai.__version__ == sys.argv[1]
with openai.OpenAI(base_url=BASE_URL, api_key="any", max_retries=0) as client:
    for check in (check_chat, check_stream_helper, check_parse, check_tools, check_the_rest, check_errors):
        check(client)
asyncio.run(check_async())
