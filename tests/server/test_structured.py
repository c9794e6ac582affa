"""Grammars and tools with the smallest model: what is forced holds whatever the model would say."""

from __future__ import annotations

import json
from typing import Any

import openai
import pydantic
import pytest
from openai import OpenAI

from tests.conftest import RunningServer

MODEL = "smollm2-135m-instruct"
QUESTION: Any = [{"role": "user", "content": "What is the weather in Paris today?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}


@pytest.fixture
def client(server: RunningServer) -> Any:
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        yield client


class Address(pydantic.BaseModel):
    street: str
    number: int


class Person(pydantic.BaseModel):
    name: str
    nickname: str | None
    colour: str = pydantic.Field(json_schema_extra={"enum": ["red", "green"]})
    address: Address


def test_the_sdks_parse_gives_an_object(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=QUESTION, response_format=Person, temperature=0, max_tokens=300, seed=1
    )
    person = answer.choices[0].message.parsed
    assert isinstance(person, Person)
    assert person.colour in {"red", "green"}


def test_streamed_json_equals_plain_json(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}, "size": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["kind", "size"],
        "additionalProperties": False,
    }
    arguments: Any = {
        "model": MODEL,
        "messages": QUESTION,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
        "temperature": 1.5,
        "seed": 3,
        "max_tokens": 60,
    }
    plain = client.chat.completions.create(**arguments).choices[0]
    chunks = list(client.chat.completions.create(stream=True, **arguments))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == plain.message.content
    value = json.loads(plain.message.content or "")
    assert value["kind"] in {"a", "b"}
    assert 1 <= value["size"] <= 9
    assert plain.finish_reason == "stop"
    logged = client.chat.completions.create(logprobs=True, **arguments).choices[0]
    assert json.loads(logged.message.content or "")["kind"] in {"a", "b"}


def test_json_mode_gives_an_object(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, response_format={"type": "json_object"}, temperature=0, max_tokens=400
    ).choices[0]
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content or ""), dict)
    else:
        assert (answer.message.content or "").startswith("{")


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "function": {"name": "get_weather"}},
        {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "get_weather"}}]},
        },
    ],
)
def test_a_forced_call_has_valid_arguments(client: OpenAI, choice: Any) -> None:
    arguments: Any = {
        "model": MODEL,
        "messages": QUESTION,
        "tools": [WEATHER],
        "tool_choice": choice,
        "temperature": 0,
        "max_tokens": 60,
    }
    plain = client.chat.completions.create(**arguments).choices[0]
    assert plain.finish_reason == "tool_calls"
    assert plain.message.content is None
    (call,) = plain.message.tool_calls or []
    value = json.loads(call.function.arguments)
    assert value["city"] in {"Paris", "Rome"}
    assert isinstance(value["days"], int)
    name, text, ids = "", "", set()
    for chunk in client.chat.completions.create(stream=True, **arguments):
        for delta in chunk.choices[0].delta.tool_calls or []:
            assert delta.index == 0
            ids |= {delta.id} - {None}
            assert delta.function is not None
            name += delta.function.name or ""
            text += delta.function.arguments or ""
    assert (name, json.loads(text), len(ids)) == ("get_weather", value, 1)


def test_a_named_tool_is_called_even_without_parameters(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        tools=[WEATHER, CLOCK],
        tool_choice={"type": "function", "function": {"name": "clock"}},
    ).choices[0]
    (call,) = answer.message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("clock", "{}")  # type: ignore[union-attr]


def test_a_result_is_taken_back_and_none_calls_nothing(client: OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    turns: Any = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."},
    ]
    answer = client.chat.completions.create(
        model=MODEL, messages=turns, tools=[WEATHER], tool_choice="none", temperature=0, max_tokens=10
    ).choices[0]
    assert answer.message.tool_calls is None
    assert answer.message.content


def test_the_old_functions_still_work(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        functions=[WEATHER["function"]],
        function_call={"name": "get_weather"},
        temperature=0,
        max_tokens=60,
    ).choices[0]
    assert answer.finish_reason == "function_call"
    assert answer.message.function_call is not None
    assert json.loads(answer.message.function_call.arguments)["city"] in {"Paris", "Rome"}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "bad name"}}]}, "tools[0].function.name"),
        ({"tools": [CLOCK] * 129}, "tools"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ],
)
def test_bad_tools_and_formats_are_named(client: OpenAI, changes: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=1, **changes)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"not": {"type": "string"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"$ref": "http://127.0.0.1:9/remote.json"}, "remote.json"),
        ({"type": "strin"}, "strin"),
        ({"enum": [f"item {i}" for i in range(100_000)]}, "at most"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_by_name(client: OpenAI, schema: Any, said: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        )
    assert caught.value.param == "response_format.json_schema.schema"
    assert said in caught.value.message


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": {"type": "object", "properties": {"c": {"$ref": "#/$defs/a"}}}}, "$ref": "#/$defs/a"},
        {"$ref": "#"},
        {"type": "string", "pattern": "^(a+)+(b|c){1,1000}((x{1,500}){1,500})$"},
        {"type": "string", "minLength": 100_000},
        {"anyOf": [{"type": "string", "pattern": f".*{i}.*"} for i in range(300)]},
    ],
)
def test_an_odd_schema_is_answered_or_refused_and_the_next_request_is_served(client: OpenAI, schema: Any) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    try:
        client.chat.completions.create(model=MODEL, messages=QUESTION, response_format=wanted, max_tokens=20)
    except openai.APIStatusError as err:
        assert err.status_code == 400  # noqa: PT017
    assert client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=1).choices


def test_a_tool_may_be_called_before_an_answer_in_a_form(client: OpenAI) -> None:
    form = {"type": "object", "properties": {"weather": {"enum": ["sun", "rain"]}}, "required": ["weather"]}
    turns: Any = [*QUESTION]
    arguments: Any = {
        "model": MODEL,
        "tools": [WEATHER],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": form}},
        "temperature": 0,
        "max_tokens": 60,
    }
    first = client.chat.completions.create(messages=turns, **arguments).choices[0]
    if first.finish_reason == "tool_calls":
        (call,) = first.message.tool_calls or []
        assert json.loads(call.function.arguments)["city"] in {"Paris", "Rome"}
        turns += [first.message, {"role": "tool", "tool_call_id": call.id, "content": "Rain."}]
    second = client.chat.completions.create(messages=turns, **arguments).choices[0]
    assert second.finish_reason == "stop"
    assert json.loads(second.message.content or "")["weather"] in {"sun", "rain"}
