"""OpenAI's own SDK for Python, of any major version: every call about responses."""

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

BASE_URL, CHAT = os.environ["BASE_URL"], os.environ["CHAT_MODEL"]
QUESTION = "Tell me about the weather in Paris."
ASKED = {"model": CHAT, "input": QUESTION, "temperature": 0}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "name": "get_weather", "parameters": CITY, "strict": True}


class Report(pydantic.BaseModel):
    city: Literal["Paris", "Rome"]
    degrees: int
    note: Literal["dry", "wet"] | None


def refusal(kind: type[openai.APIStatusError], call: Callable[[], object]) -> openai.APIStatusError:
    try:
        call()
    except kind as err:
        return err
    raise AssertionError(f"{kind} was expected")


def check_text(client: openai.OpenAI) -> None:
    whole = client.responses.create(**ASKED, max_output_tokens=20)
    assert whole.status == "incomplete"
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert whole.usage.output_tokens == 20
    events = list(client.responses.create(**ASKED, max_output_tokens=20, stream=True))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output_text == whole.output_text
    raw = client.responses.with_raw_response.create(**ASKED, max_output_tokens=1)
    assert raw.headers["x-request-id"]
    assert raw.parse().id.startswith("resp_")


def check_stream_helper(client: openai.OpenAI) -> None:
    city = {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}
    short = {**ASKED, "text": {"format": city}}  # ends whatever the model would say
    with client.responses.stream(**short) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert {"response.output_text.delta", "response.output_text.done", "response.completed"} <= kinds
    assert final.output_text == client.responses.create(**short).output_text


def check_parse(client: openai.OpenAI) -> None:
    asked = {**ASKED, "text_format": Report, "max_output_tokens": 300}
    parsed = client.responses.parse(**asked).output_parsed
    assert parsed.city in {"Paris", "Rome"}
    with client.responses.stream(**asked) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_parsed == parsed


def check_tools(client: openai.OpenAI) -> None:
    asked = {**ASKED, "tools": [TOOL], "tool_choice": "required", "max_output_tokens": 100}
    first = client.responses.create(**asked)
    call = next(item for item in first.output if item.type == "function_call")
    assert json.loads(call.arguments)["city"] in {"Paris", "Rome"}
    with client.responses.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        streamed = next(item for item in stream.get_final_response().output if item.type == "function_call")
    assert {"response.function_call_arguments.delta", "response.function_call_arguments.done"} <= kinds
    assert streamed.arguments == call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"}
    rest = {"model": CHAT, "tools": [TOOL], "tool_choice": "none", "max_output_tokens": 5}
    chained = client.responses.create(**rest, previous_response_id=first.id, input=[result])
    history = [{"role": "user", "content": QUESTION}, *first.output, result]
    sent_back = client.responses.create(**rest, input=history, store=False)
    assert chained.usage.input_tokens == sent_back.usage.input_tokens
    tool = openai.pydantic_function_tool(Report, name="report")
    parsed = client.responses.parse(**{**asked, "tools": [tool]})
    assert any(isinstance(getattr(item, "parsed_arguments", None), Report) for item in parsed.output)


def check_state(client: openai.OpenAI) -> None:
    first = client.responses.create(**ASKED, max_output_tokens=4, metadata={"topic": "weather"})
    second = client.responses.create(
        model=CHAT, input="And in Rome?", previous_response_id=first.id, max_output_tokens=4
    )
    kept = client.responses.retrieve(second.id)
    assert kept.to_dict() == second.to_dict()
    assert kept.metadata == {}
    pages = list(client.responses.input_items.list(second.id, limit=1, order="asc"))
    assert [item.type for item in pages] == ["message"] * 3
    assert client.responses.input_tokens.count(model=CHAT, input=QUESTION).input_tokens == first.usage.input_tokens
    assert refusal(openai.BadRequestError, lambda: client.responses.cancel(first.id)).code == "invalid_value"
    client.responses.delete(first.id)
    for call, kind in (
        (lambda: client.responses.retrieve(first.id), openai.NotFoundError),
        (lambda: client.responses.create(**ASKED, previous_response_id=second.id), openai.BadRequestError),
        (lambda: client.responses.create(**{**ASKED, "model": "none"}), openai.NotFoundError),
        (lambda: client.responses.create(**{**ASKED, "input": "word " * 5000}, stream=True), openai.BadRequestError),
    ):
        assert refusal(kind, call).request_id


def check_what_may_be_included(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        **ASKED,
        max_output_tokens=3,
        top_logprobs=2,
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        reasoning={"effort": "low", "summary": "auto"},
        store=False,
        truncation="auto",
    )
    (part,) = answer.output[0].content
    assert [len(token.top_logprobs) for token in part.logprobs] == [2] * 3
    assert answer.store is False


async def check_async() -> None:
    async with openai.AsyncOpenAI(base_url=BASE_URL, api_key="any", max_retries=0) as client:
        stream = await client.responses.create(**ASKED, stream=True)
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        answers = await asyncio.gather(*(client.responses.create(**ASKED, max_output_tokens=5) for _ in range(6)))
        assert len({answer.output_text for answer in answers}) == 1


assert openai.__version__ == sys.argv[1]
with openai.OpenAI(base_url=BASE_URL, api_key="any", max_retries=0) as client:
    for check in (
        check_text,
        check_stream_helper,
        check_parse,
        check_tools,
        check_state,
        check_what_may_be_included,
    ):
        check(client)
asyncio.run(check_async())
