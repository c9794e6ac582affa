"""Help for the smallest models inside a grammar: closed objects, no endless loops, results as text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import OpenAI

from appliance.server.v1.chat.closed_schema import closed
from appliance.server.v1.turn import Call, Turn
from appliance.server.v1.turns import messages_of
from appliance.text.conventions import Conventions
from tests.conftest import RunningServer

MODEL = "smollm2-135m-instruct"
STRING = {"type": "string"}


@pytest.fixture
def client(server: RunningServer) -> Any:
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        yield client


def test_objects_that_list_their_properties_are_closed_at_every_depth() -> None:
    inner = {"type": "object", "properties": {"a": STRING}}
    schema = {"properties": {"x": inner, "y": {"type": "array", "items": inner}}, "$defs": {"d": {"anyOf": [inner]}}}
    shut = {**inner, "additionalProperties": False}
    assert closed(schema) == {
        "properties": {"x": shut, "y": {"type": "array", "items": shut}},
        "$defs": {"d": {"anyOf": [shut]}},
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"a": STRING}, "additionalProperties": STRING},
        {"type": "object", "properties": {"a": STRING}, "patternProperties": {"^x": STRING}},
        {"type": "object", "properties": {"a": STRING}, "anyOf": [{"required": ["b"]}]},
        {"allOf": [{"properties": {"a": STRING}}, {"properties": {"b": STRING}}]},
        {"$defs": {"d": {"properties": {"a": STRING}}}, "allOf": [{"$ref": "#/$defs/d"}]},
    ],
)
def test_objects_that_may_mean_more_than_they_list_stay_open(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema


def test_a_forced_call_has_no_keys_beyond_those_of_its_tool(client: OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "What time is it?"}], tools=[tool], tool_choice="required"
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.function.arguments == "{}"  # type: ignore[union-attr]


def test_greedy_json_comes_to_its_end(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"setup": STRING, "punchline": STRING},
        "required": ["setup", "punchline"],
    }
    arguments: Any = {
        "model": MODEL,
        "response_format": {"type": "json_schema", "json_schema": {"name": "joke", "schema": schema}},
        "temperature": 0,
        "max_tokens": 150,
    }

    def joke(subject: str, **more: Any) -> Any:
        messages: Any = [{"role": "user", "content": f"Tell me a joke about {subject}."}]
        return client.chat.completions.create(messages=messages, **arguments, **more).choices[0]

    jokes = {subject: joke(subject) for subject in ("dogs", "rain", "the sea", "trains")}
    ended = [choice for choice in jokes.values() if choice.finish_reason == "stop"]
    assert len(ended) >= 3  # one that goes astray is the model's
    assert all(set(json.loads(choice.message.content)) == {"setup", "punchline"} for choice in ended)
    as_asked = [joke(subject, frequency_penalty=0).message.content for subject in jokes]
    assert as_asked != [choice.message.content for choice in jokes.values()]  # what was asked for is what is done


def test_results_are_told_to_a_template_that_knows_no_tools() -> None:
    turns = [
        Turn("user", "What time is it?"),
        Turn("assistant", calls=(Call("clock", "{}", "1"),)),
        Turn("tool", "Noon.", call_id="1"),
    ]
    told = messages_of(turns, Conventions(), knows_tools=False)
    assert told[1]["content"] == '{"name": "clock", "arguments": {}}'
    assert told[2]["role"] == "user"
    assert told[2]["content"].startswith("The tool clock answered:\nNoon.")
    assert [m["role"] for m in messages_of(turns, Conventions(), knows_tools=True)] == ["user", "assistant", "tool"]
