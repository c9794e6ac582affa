"""Bad requests to /v1/responses: refused in shape, or answered with an honest status; never a failure of ours."""

from __future__ import annotations

import asyncio
import copy
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.home import Home
from tests.conftest import RunningServer, a_config, serving
from tests.server.responses.asking import MODEL, WEATHER, create, events_of, post
from tests.server.wire import JSON, assert_error

FORM: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 4}}, "required": ["a"]}
GOOD: dict[str, Any] = {
    "model": MODEL,
    "input": [
        {"role": "system", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}], "id": "msg_1"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "content": None},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "1"}]},
        {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "lr1.cut"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "no", "annotations": [], "logprobs": None}]},
        {"role": "user", "content": "more"},
    ],
    "instructions": "Be kind.",
    "tools": [{**WEATHER, "strict": True}, {"type": "web_search"}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_weather"}]},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": FORM, "strict": True}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["message.output_text.logprobs", "reasoning.encrypted_content"],
    "max_output_tokens": 3,
    "max_tool_calls": 1,
    "temperature": 1,
    "top_p": 1,
    "top_logprobs": 1,
    "truncation": "auto",
    "metadata": {"a": "b"},
    "store": True,
    "stream": True,
    "stream_options": {"include_obfuscation": True},
    "parallel_tool_calls": False,
    "prompt_cache_options": {"mode": "auto"},
    "service_tier": "auto",
    "stop": ["x"],
    "logit_bias": {"5": 1},
    "seed": 1,
    "chat_template_kwargs": {"a": [1]},
}
KINDS = ("web_search_call", "tool_search_call", "mcp_call", "compaction", "computer_call_output", "shell_call", "", "x")
Place = tuple[str | int, ...]


def places(value: Any, at: Place = ()) -> list[Place]:
    """Every place within a JSON value, the whole left out."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in inner for place in [(*at, key), *places(item, (*at, key))]]


def changed(place: Place, value: Any) -> dict[str, Any]:
    request = copy.deepcopy(GOOD)
    target: Any = request
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    return request


def assert_answered_or_refused(server: RunningServer, request: dict[str, Any]) -> None:
    content = json.dumps(request).encode()
    headers = {"content-type": "application/json"}
    response = httpx2.post(f"{server.base_url}/responses", content=content, headers=headers, timeout=30)
    if response.status_code != 200:
        assert 400 <= response.status_code < 500, response.text
        assert_error(response, response.status_code)
    elif request["stream"]:
        last = events_of(response.text)[-1]
        assert last["type"] != "response.failed"


def test_the_request_is_good_to_begin_with(server: RunningServer) -> None:
    response = httpx2.post(f"{server.base_url}/responses", json=GOOD, timeout=30)
    last = events_of(response.text)[-1]["response"]
    assert last["input_transformations"] == [
        {"id": "rs_2", "type": "reasoning", "action": "removed", "reason": "model_mismatch"}
    ]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.builds(changed, st.sampled_from([p for p in places(GOOD) if p != ("max_output_tokens",)]), JSON))
def test_any_json_anywhere_in_a_request(server: RunningServer, request: dict[str, Any]) -> None:
    assert_answered_or_refused(server, request)


@pytest.mark.parametrize("kind", KINDS)
def test_items_of_other_types_are_refused_by_name(server: RunningServer, kind: str) -> None:
    item = {"type": kind, "id": "x", "output": {"a": 1}, "content": 5, "name": None}
    refused = post(server, input=[{"role": "user", "content": "Hi"}, item])
    assert_error(refused, 400, "unsupported_value", "input[1].type")


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({}, "missing_required_parameter", "input"),
        ({"input": ""}, None, "input"),
        ({"input": []}, None, "input"),
        ({"input": [{"role": "user", "content": "a"}] * 2049}, None, "input"),
        ({"input": "a", "background": True, "store": False}, "invalid_value", "background"),
        (
            {"input": "a", "conversation": "conv_1", "previous_response_id": "resp_1"},
            "mutually_exclusive_parameters",
            "conversation",
        ),
        ({"input": "a", "prompt": {"id": "p"}}, "unsupported_parameter", "prompt"),
        ({"input": "a", "context_management": []}, "unsupported_parameter", "context_management"),
        ({"input": "a", "prompt": [{}]}, "unsupported_parameter", "prompt"),
        ({"input": "a", "moderation": {}}, "unsupported_parameter", "moderation"),
        (
            {"input": "a", "prompt_cache_options": {"prewarm": True}},
            "unsupported_parameter",
            "prompt_cache_options.prewarm",
        ),
        ({"input": "a", "include": ["nonsense"]}, "invalid_value", "include[0]"),
        ({"input": "a", "stream_options": {}}, None, "stream_options"),
        ({"input": "a", "metadata": {str(i): "" for i in range(17)}}, "invalid_value", "metadata"),
        ({"input": "a", "metadata": {"a": "b" * 513}}, "invalid_value", "metadata"),
        ({"input": "a", "max_output_tokens": 0}, None, "max_output_tokens"),
        ({"input": "a", "previous_response_id": "resp_0"}, "previous_response_not_found", "previous_response_id"),
        ({"input": "a", "text": {"format": {"type": "json_schema"}}}, "missing_required_parameter", "text.format.name"),
        (
            {"input": "a", "text": {"format": {"type": "json_schema", "name": "n", "schema": {"not": {}}}}},
            "invalid_json_schema",
            "text.format.schema",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "unsupported_content",
            "input[0].content[0]",
        ),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "1"}]}, None, "input"),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}]},
            "invalid_value",
            "input[0].arguments",
        ),
        ({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}]}, None, "input"),
        (
            {"input": "a", "tools": [{"type": "function", "function": {"name": "f"}}]},
            "missing_required_parameter",
            "tools[0].name",
        ),
        (
            {
                "input": "a",
                "tools": [{"type": "function", "name": "f", "parameters": {"not": {}}, "strict": True}],
            },
            "invalid_json_schema",
            "tools[0].parameters",
        ),
        ({"input": "a", "tools": [WEATHER], "tool_choice": {"type": "function", "name": "g"}}, None, "tool_choice"),
        ({"input": "a", "tools": [WEATHER], "tool_choice": {"type": "mcp"}}, "unsupported_value", "tool_choice"),
    ],
)
def test_a_refusal_names_the_field(server: RunningServer, fields: dict[str, Any], code: str, param: str) -> None:
    assert_error(post(server, **fields), 400, code, param)


def test_as_many_items_as_are_taken_are_read_or_too_long(server: RunningServer) -> None:
    items = [{"role": ("user", "assistant")[i % 2], "content": "a"} for i in range(2047)]
    items.append({"role": "user", "content": "Hi"})
    assert_error(post(server, input=items), 400, "context_length_exceeded", "input")
    assert create(server, input=items, truncation="auto", max_output_tokens=1)["status"] == "incomplete"


def test_a_chain_longer_than_the_context_is_refused_as_such(server: RunningServer) -> None:
    previous: str | None = None
    for _ in range(3):
        made = create(
            server, input="word " * 700, previous_response_id=previous, max_output_tokens=1, truncation="auto"
        )
        previous = made["id"]
    refused = post(server, input="word " * 700, previous_response_id=previous, max_output_tokens=1)
    assert_error(refused, 400, "context_length_exceeded", "input")


def test_a_deleted_response_ends_the_chains_through_it(server: RunningServer) -> None:
    first = create(server, input="a", max_output_tokens=1)
    second = create(server, input="b", previous_response_id=first["id"], max_output_tokens=1)
    httpx2.delete(f"{server.base_url}/responses/{first['id']}")
    refused = post(server, input="c", previous_response_id=second["id"])
    assert_error(refused, 400, "previous_response_not_found", "previous_response_id")
    assert httpx2.get(f"{server.base_url}/responses/{second['id']}").status_code == 200


def test_two_requests_chain_on_one_response_at_once(server: RunningServer) -> None:
    first = create(server, input="My name is Ada.", max_output_tokens=4)
    fields: dict[str, Any] = {"previous_response_id": first["id"], "max_output_tokens": 8}
    with ThreadPoolExecutor(2) as threads:
        made = list(threads.map(lambda text: create(server, input=text, **fields), ["Who am I?", "Say hello."]))
    assert made[0]["id"] != made[1]["id"]
    assert {response["previous_response_id"] for response in made} == {first["id"]}
    assert all(httpx2.get(f"{server.base_url}/responses/{r['id']}").json() == r for r in made)


def test_a_client_that_leaves_early_gets_nothing_stored(server: RunningServer) -> None:
    async def leave_after_created() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.service.port)
        body = json.dumps({"model": MODEL, "input": "Tell me a story.", "stream": True, "ignore_eos": True}).encode()
        head = "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}"
        writer.write(head.encode() + b"\r\n\r\n" + body)
        await reader.readuntil(b"event: response.created\n")
        line = await reader.readline()
        response_id: str = json.loads(line.removeprefix(b"data: "))["response"]["id"]
        writer.close()
        await writer.wait_closed()
        return response_id

    response_id = asyncio.run(leave_after_created())
    create(server, input="Hi", max_output_tokens=1)
    assert_error(httpx2.get(f"{server.base_url}/responses/{response_id}"), 404, "not_found")


def test_responses_belong_to_their_key_and_storing_can_be_off(starter_home: Home) -> None:
    keys = ["sk-first-of-all", "sk-second-of-all"]
    first, second = ({"Authorization": f"Bearer {key}"} for key in keys)
    request = {"model": MODEL, "input": "Hi", "max_output_tokens": 1}
    with serving(a_config(server={"keys": keys}), starter_home) as server:
        url = f"{server.base_url}/responses"
        made = httpx2.post(url, json=request, headers=first, timeout=60).json()
        assert httpx2.get(f"{url}/{made['id']}", headers=first).json() == made
        for method in ("GET", "DELETE"):
            assert_error(httpx2.request(method, f"{url}/{made['id']}", headers=second), 404, "not_found")
        chained = {**request, "previous_response_id": made["id"]}
        refused = httpx2.post(url, json=chained, headers=second, timeout=60)
        assert_error(refused, 400, "previous_response_not_found", "previous_response_id")
        named = (
            {**request, "input": [{"id": made["output"][0]["id"]}]}
            if made["output"]
            else {**request, "input": [{"id": "x"}]}
        )
        assert_error(httpx2.post(url, json=named, headers=second, timeout=60), 404, param="input")
    with serving(a_config(responses={"store": "off"}), starter_home) as server:
        made = create(server, input="Hi", max_output_tokens=1)
        assert made["store"] is False
        refused = post(server, input="Hi", previous_response_id=made["id"])
        assert_error(refused, 400, "previous_response_not_found", "previous_response_id")
