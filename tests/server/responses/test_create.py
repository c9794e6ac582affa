"""POST /v1/responses against a real server: plain, streamed, chained, with tools and schemas."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest
from pydantic import BaseModel

from appliance.server.v1.responses.response import InputItemList, Response, ResponseEvent
from tests.conftest import RunningServer
from tests.server.answers import read_answer
from tests.server.responses.asking import MODEL, WEATHER, create, events_of, post, stream, text_of
from tests.server.responses.openai_schemas import OpenAISchemas
from tests.server.wire import assert_error

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}},
    "required": ["city"],
    "additionalProperties": False,
}
FORM = {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}}
PATCH = r"""
start: "*** Begin" LF file+ "*** End" LF?
file: "*** File: " /(.+)/ LF line+
line: ("+" | "-") /(.*)/ LF -> line
%import common.LF
"""
REQUESTS: list[dict[str, Any]] = [
    {"input": "Say hello.", "max_output_tokens": 24},
    {"input": "Say hello.", "max_output_tokens": 200},
    {"input": "Count.", "max_output_tokens": 8, "top_logprobs": 2, "include": ["message.output_text.logprobs"]},
    {"input": "A city, as JSON.", "text": FORM, "max_output_tokens": 40},
    {"input": "Any JSON.", "text": {"format": {"type": "json_object"}, "verbosity": "low"}, "max_output_tokens": 12},
    {"input": "Paris?", "tools": [WEATHER], "tool_choice": "required", "max_output_tokens": 60},
    {"input": "Paris?", "tools": [WEATHER], "tool_choice": "required", "max_output_tokens": 14},
    {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "max_output_tokens": 6,
        "reasoning": {"effort": "low", "summary": "auto"},
        "user": "u",
        "truncation": "auto",
        "store": False,
    },
]


@pytest.fixture(scope="module")
def client(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)


def without_ids(value: Any) -> Any:
    """Remove what differs between two answers to one request."""
    if isinstance(value, dict):
        gone = {"id", "call_id", "created_at", "completed_at", "cached_tokens", "item_id", "timings"}
        return {name: without_ids(field) for name, field in value.items() if name not in gone}
    return [without_ids(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("fields", REQUESTS)
def test_a_streamed_response_equals_the_plain_one(server: RunningServer, fields: dict[str, Any]) -> None:
    plain, streamed = create(server, **fields), stream(server, **fields)[-1]["response"]
    assert without_ids(streamed) == without_ids(plain)


@pytest.mark.parametrize("fields", REQUESTS)
def test_answers_and_events_are_what_our_document_says(server: RunningServer, fields: dict[str, Any]) -> None:
    read_answer(Response, json.dumps(create(server, **fields)))
    for event in stream(server, **fields):
        read_answer(ResponseEvent, json.dumps(event))


@pytest.mark.parametrize("fields", REQUESTS)
def test_answers_and_events_satisfy_openais_schemas(server: RunningServer, fields: dict[str, Any]) -> None:
    schemas = OpenAISchemas()
    plain = create(server, **fields)
    assert schemas.faults("Response", plain) == []
    for event in stream(server, **fields):
        if event.get("response", {}).get("usage", 0) is None:  # as OpenAI sends it, whatever its schema has
            del event["response"]["usage"]
        assert schemas.faults("ResponseStreamEvent", event) == []
    if plain["store"]:
        page = httpx2.get(f"{server.base_url}/responses/{plain['id']}/input_items").json()
        assert schemas.faults("ResponseItemList", page) == []


def test_a_response_says_what_chat_says(server: RunningServer) -> None:
    messages = [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Red."},
        {"role": "user", "content": "And another one?"},
    ]
    chat = httpx2.post(
        f"{server.base_url}/chat/completions",
        json={"model": MODEL, "messages": messages, "temperature": 0, "max_completion_tokens": 24},
        timeout=60,
    ).json()
    response = create(server, instructions="You are terse.", input=messages[1:], max_output_tokens=24)
    assert text_of(response) == chat["choices"][0]["message"]["content"]
    assert response["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
    assert response["usage"]["output_tokens"] == chat["usage"]["completion_tokens"]
    counted = post(server, "/responses/input_tokens", instructions="You are terse.", input=messages[1:])
    assert counted.json() == {"object": "response.input_tokens", "input_tokens": chat["usage"]["prompt_tokens"]}


def test_openais_client_reads_plain_and_streamed_responses(client: openai.OpenAI) -> None:
    plain = client.responses.create(model=MODEL, input="Say hi.", temperature=0, max_output_tokens=200)
    assert plain.status == "completed"
    assert plain.output_text
    with client.responses.stream(model=MODEL, input="Say hi.", temperature=0, max_output_tokens=200) as events:
        streamed = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert events.get_final_response().output_text == streamed == plain.output_text


def test_openais_client_parses_an_answer_into_a_model(client: openai.OpenAI) -> None:
    class Place(BaseModel):
        city: str

    parsed = client.responses.parse(
        model=MODEL, input="Name a city as JSON.", text_format=Place, temperature=0, max_output_tokens=200
    )
    assert isinstance(parsed.output_parsed, Place)


def test_a_call_and_its_result_make_a_turn(client: openai.OpenAI) -> None:
    tools: Any = [{**WEATHER, "strict": True}]
    called = client.responses.create(
        model=MODEL, input="Weather in Paris?", tools=tools, tool_choice="required", temperature=0
    )
    (call,) = called.output
    assert call.type == "function_call"
    assert set(json.loads(call.arguments)) == {"city"}
    result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}]
    history: Any = [{"role": "user", "content": "Weather in Paris?"}, call.to_dict(), *result]
    for chained in (
        client.responses.create(
            model=MODEL, input=result, previous_response_id=called.id, tools=tools, max_output_tokens=8, temperature=0
        ),
        client.responses.create(
            model=MODEL,
            input=history,
            tools=tools,
            max_output_tokens=8,
            temperature=0,
        ),
    ):
        assert chained.output_text


def test_a_chained_turn_reuses_the_prefix_and_remembers_the_first(client: openai.OpenAI) -> None:
    first = client.responses.create(
        model=MODEL, input="My name is Ada. Say hello.", instructions="Be kind.", temperature=0, max_output_tokens=16
    )
    assert first.usage is not None
    second = client.responses.create(
        model=MODEL, input="Say it again.", previous_response_id=first.id, instructions="Be kind.", temperature=0
    )
    assert second.usage is not None
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens - 1
    items = client.responses.input_items.list(second.id, order="asc", limit=2)
    assert [item.type for item in items] == ["message"] * 3
    assert items.has_more


def test_instructions_are_not_carried_over(server: RunningServer) -> None:
    alone = create(server, input="Hi", max_output_tokens=1)
    told = create(server, input="Hi", instructions="Speak only of whales and of nothing else.", max_output_tokens=1)
    counts = [
        post(server, "/responses/input_tokens", input="And?", previous_response_id=r["id"]).json()["input_tokens"]
        for r in (alone, told)
    ]
    assert counts[0] == counts[1]


def test_a_stored_response_is_returned_listed_and_deleted(server: RunningServer) -> None:
    made = create(server, input="Hi", max_output_tokens=4)
    url = f"{server.base_url}/responses/{made['id']}"
    assert httpx2.get(url, params={"include": "message.output_text.logprobs"}).json() == made
    assert_error(httpx2.get(url, params={"stream": "true"}), 400, "unsupported_parameter", "stream")
    page = httpx2.get(f"{url}/input_items")
    read_answer(InputItemList, page.text)
    (item,) = page.json()["data"]
    assert item["content"] == [{"type": "input_text", "text": "Hi"}]
    assert httpx2.get(f"{url}/input_items", params={"after": item["id"]}).json()["data"] == []
    for params in ({"limit": "0"}, {"limit": "101"}, {"order": "up"}, {"after": "msg_0"}):
        assert_error(httpx2.get(f"{url}/input_items", params=params), 400, "invalid_value")
    assert_error(httpx2.post(f"{url}/cancel"), 400, "invalid_value")
    assert httpx2.delete(url).json() == {"id": made["id"], "object": "response", "deleted": True}
    for again in (
        httpx2.delete(url),
        httpx2.get(url),
        httpx2.get(f"{url}/input_items"),
        httpx2.post(f"{url}/cancel"),
    ):
        assert_error(again, 404, "not_found")
    refused = post(server, input="Hi", previous_response_id=made["id"])
    assert_error(refused, 400, "previous_response_not_found", "previous_response_id")


def test_a_response_that_is_not_to_be_stored_is_not(server: RunningServer) -> None:
    made = create(server, input="Hi", max_output_tokens=4, store=False)
    assert made["store"] is False
    assert_error(httpx2.get(f"{server.base_url}/responses/{made['id']}"), 404, "not_found")


def test_items_can_be_named_instead_of_sent(server: RunningServer) -> None:
    made = create(server, input="My name is Ada.", max_output_tokens=6)
    (said,) = httpx2.get(f"{server.base_url}/responses/{made['id']}/input_items").json()["data"]
    (answered,) = made["output"]
    question = {"role": "user", "content": "Who am I?"}
    sent = create(server, input=[said, answered, question], max_output_tokens=4)
    named = create(
        server,
        input=[{"type": "item_reference", "id": said["id"]}, {"type": None, "id": answered["id"]}, question],
        max_output_tokens=4,
    )
    assert without_ids(named) == without_ids(sent)
    gone = post(server, input=[{"id": "msg_gone"}])
    assert "Item with id 'msg_gone' not found." in assert_error(gone, 404, param="input")
    assert gone.json()["error"]["code"] is None


def test_tools_of_other_types_are_left_out_under_auto(server: RunningServer) -> None:
    hosted = [{"type": "web_search"}, {"type": "namespace", "name": "x", "tools": []}]
    answer = post(server, input="Hi", tools=[*hosted, WEATHER], max_output_tokens=4)
    assert answer.headers["x-lantern-ignored-tools"] == "web_search, namespace"
    assert [tool["type"] for tool in answer.json()["tools"]] == ["function"]
    assert answer.json()["tools"][0]["strict"] is True
    for fields in (
        {"tools": hosted},
        {"tools": hosted, "tool_choice": "required"},
        {"tools": [*hosted, WEATHER], "include": ["web_search_call.results"]},
    ):
        assert_error(post(server, input="Hi", **fields), 400, "unsupported_value", "tools[0].type")
    forced = post(server, input="Hi", tools=[*hosted, WEATHER], tool_choice={"type": "web_search"})
    assert_error(forced, 400, "unsupported_value", "tool_choice")


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "name": "get_time"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_time"}]},
    ],
)
def test_a_named_choice_is_the_one_that_is_called(server: RunningServer, choice: dict[str, Any]) -> None:
    tools = [WEATHER, {"type": "function", "name": "get_time", "parameters": None}]
    made = create(server, input="Weather in Paris?", tools=tools, tool_choice=choice, max_output_tokens=40)
    assert [(item["name"], json.loads(item["arguments"])) for item in made["output"]] == [("get_time", {})]
    assert made["tool_choice"] == choice


def test_a_cut_call_has_no_done_arguments_and_can_be_continued(server: RunningServer) -> None:
    events = stream(server, input="Paris?", tools=[WEATHER], tool_choice="required", max_output_tokens=14)
    last = events[-1]["response"]
    assert last["incomplete_details"] == {"reason": "max_output_tokens"}
    assert not any(event["type"] == "response.function_call_arguments.done" for event in events)
    create(server, input="Go on.", previous_response_id=last["id"], tools=[WEATHER], max_output_tokens=2)


def test_obfuscation_is_there_only_where_it_was_asked_for(server: RunningServer) -> None:
    plain = stream(server, input="Hi", max_output_tokens=4)
    padded = stream(server, input="Hi", max_output_tokens=4, stream_options={"include_obfuscation": True})
    assert not any("obfuscation" in event for event in plain)
    assert all(("obfuscation" in event) == event["type"].endswith(".delta") for event in padded)


def test_a_websocket_is_refused_so_that_codex_goes_on_over_http(server: RunningServer) -> None:
    url = f"{server.base_url}/responses"
    asked = httpx2.get(url, headers={"Upgrade": "websocket", "Connection": "Upgrade"})
    assert_error(asked, 426, "websocket_not_supported")
    plain = httpx2.get(url)
    assert_error(plain, 405, "method_not_allowed")
    assert plain.headers["Allow"] == "POST"
    for path in ("/v1/responses", "/v1/responses/input_tokens"):  # neither takes what its neighbours take
        assert httpx2.options(f"{server.root_url}{path}").headers["Allow"] == "POST"


def test_the_oldest_turns_are_left_out_where_truncation_is_auto(server: RunningServer) -> None:
    long = [{"role": "user", "content": f"{i} " + "word " * 120} for i in range(30)]
    fields: dict[str, Any] = {"input": [*long, {"role": "user", "content": "Hi"}], "max_output_tokens": 4}
    assert_error(post(server, **fields), 400, "context_length_exceeded", "input")
    made = create(server, **fields, truncation="auto")
    assert made["usage"]["input_tokens"] > 1000
    assert 0 < made["messages_left_out"] < len(long)
    kept = create(server, input=fields["input"][made["messages_left_out"] :], max_output_tokens=4)
    assert kept["usage"]["input_tokens"] == made["usage"]["input_tokens"]
    assert "messages_left_out" not in kept
    too_long = [{"role": "user", "content": "word " * 6000}]
    assert_error(post(server, input=too_long, truncation="auto"), 400, "context_length_exceeded", "input")


def test_a_stream_in_raw_bytes_has_names_numbers_and_one_end(server: RunningServer) -> None:
    answer = post(server, input="Hi", max_output_tokens=4, stream=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert [event["type"] for event in events_of(answer.text)][-1] == "response.incomplete"


def test_a_request_as_codex_writes_it_is_streamed(server: RunningServer) -> None:
    function = {**WEATHER, "name": "shell_command", "strict": False}
    events = stream(
        server,
        instructions="You are a coding agent.",
        input=[
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be safe."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        ],
        tools=[
            function,
            {"type": "local_shell"},
            {
                "type": "custom",
                "name": "apply_patch",
                "format": {"type": "grammar", "syntax": "lark", "definition": PATCH},
            },
            {"type": "web_search", "external_web_access": False},
            {"type": "namespace", "name": "mcp", "tools": []},
        ],
        tool_choice="auto",
        parallel_tool_calls=False,
        reasoning={"effort": "medium", "summary": "auto"},
        store=False,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="0199",
        client_metadata={"x": "y"},
        max_output_tokens=8,
    )
    last = events[-1]["response"]
    assert [(tool["name"], tool["type"]) for tool in last["tools"]] == [
        ("shell_command", "function"),
        ("apply_patch", "custom"),
    ]
    assert last["tools"][0]["strict"] is False
    assert last["store"] is False
    assert last["prompt_cache_key"] == "0199"
