"""Requests at the edge of what is allowed: answered exactly, or refused by name, and the next one is served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.conftest import RunningServer
from tests.server.wire import GOOD, MODEL, assert_error, chat, post

USER: dict[str, Any] = {"role": "user", "content": "hi"}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CALL: dict[str, Any] = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
ODD_TEXT = "😀👨‍👩‍👧 שלום \u202eabc e\u0301 𝔘 \u0000\t"


def said(server: RunningServer, **changes: Any) -> dict[str, Any]:
    response = chat(server, **changes)
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


def deltas(server: RunningServer, **changes: Any) -> Iterator[dict[str, Any]]:
    for line in chat(server, stream=True, **changes).text.splitlines():
        if line.startswith("data: {"):
            yield from json.loads(line.removeprefix("data: "))["choices"]


def forced(text: str) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [text]}}}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [USER] * 2049}, "messages"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "1"}]}, "messages[0].tool_call_id"),
        ({"messages": [USER, {"role": "tool", "tool_call_id": "x", "content": "1"}]}, "messages[1].tool_call_id"),
        ({"tools": [TOOL], "tool_choice": {"type": "x"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        ({"functions": [TOOL["function"]], "function_call": {"nam": "x"}}, "function_call.name"),
        ({"repetition_penalty": 1e-30}, "repetition_penalty"),
        ({"model": "x" * 300}, "model"),
        ({"modalities": ["smell"]}, "modalities[0]"),
        ({"service_tier": "first class"}, "service_tier"),
        ({"reasoning_effort": 3}, "reasoning_effort"),
        ({"verbosity": "mute"}, "verbosity"),
        ({"store": "yes"}, "store"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"user": 5}, "user"),
        ({"safety_identifier": []}, "safety_identifier"),
        ({"prompt_cache_key": 5}, "prompt_cache_key"),
        ({"prediction": "text"}, "prediction"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "modalities"),
    ],
)
def test_what_openai_refuses_is_refused_by_name(server: RunningServer, changes: dict[str, Any], param: str) -> None:
    assert_error(chat(server, **changes), 400, param=param)


@pytest.mark.parametrize(
    "message",
    [
        {"content": None},
        {"content": None, "reasoning_content": "Hm."},
        {"content": None, "refusal": None, "annotations": [], "tool_calls": []},
        {"reasoning_content": "Hm."},
        *(
            {"content": None, "tool_calls": [CALL | {"function": {"name": "f", "arguments": arguments}}]}
            for arguments in ('{"city": "Par', "[1]", '"x"', "null", "", '{"a": "\\ud800"}', "{" * 500)
        ),
    ],
)
def test_what_a_model_may_have_written_is_read_again(server: RunningServer, message: dict[str, Any]) -> None:
    history = [USER, {"role": "assistant", **message}, USER]
    assert said(server, messages=history, max_tokens=1)["finish_reason"] == "length"
    assert said(server, messages=history, tools=[TOOL], max_tokens=1)["finish_reason"] == "length"


def test_a_forced_call_that_was_cut_is_read_again(server: RunningServer) -> None:
    cut = said(server, tools=[TOOL], tool_choice="required", max_tokens=3)
    assert cut["finish_reason"] == "length"
    assert said(server, messages=[USER, cut["message"], USER], tools=[TOOL], max_tokens=1)


def test_a_wrong_type_is_told_as_json_calls_it(server: RunningServer) -> None:
    message = assert_error(chat(server, messages={"role": "user"}), 400, "invalid_type", "messages")
    assert message == "Invalid type for 'messages': expected an array, but got an object instead."


def test_fields_without_use_here_are_taken(server: RunningServer) -> None:
    fields = {
        "store": True,
        "metadata": {"a": "b"},
        "service_tier": "flex",
        "safety_identifier": "me",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "verbosity": "low",
        "prediction": {"type": "content", "content": "hi"},
        "modalities": ["text"],
        "user": "me",
        "stream_options": None,
    }
    assert chat(server, **fields).status_code == 200


@pytest.mark.parametrize("temperature", [1e-320, 1e-46, 1e-38, 1e-5])
def test_the_coldest_temperatures_are_greedy_and_harm_nobody(server: RunningServer, temperature: float) -> None:
    cold = said(server, temperature=temperature, max_tokens=5, seed=7)
    assert cold["message"] == said(server, temperature=0, max_tokens=5)["message"]


@pytest.mark.parametrize(
    "changes",
    [
        {"top_p": 0},
        {"top_p": 1e-320},
        {"top_k": 10**30},
        {"min_p": 1.0},
        {"temperature": 2, "frequency_penalty": -2, "presence_penalty": 2},
        {"logit_bias": {str(token): -100 for token in range(49152)}},
        {"logit_bias": {"100": 100, "101": -100.0}},
        {"seed": -(2**63)},
        {"seed": 9223372036854776000},
        {"seed": -(10**30)},
        {"max_completion_tokens": 2**62, "stop": ["a", "e", "i", "o", "."]},
        {"ignore_eos": True, "response_format": forced("x"), "max_tokens": 20},
        {"chat_template_kwargs": {"enable_thinking": False, "odd": [{"a": None}]}},
    ],
)
def test_the_ends_of_every_range_are_answered(server: RunningServer, changes: dict[str, Any]) -> None:
    assert said(server, **{"max_tokens": 2, **changes})["finish_reason"] in {"stop", "length"}


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"9" * 5000])
def test_a_number_that_no_double_holds_is_a_400_wherever_it_stands(server: RunningServer, number: bytes) -> None:
    body = json.dumps({**GOOD, "chat_template_kwargs": {"x": "NUMBER"}}).encode().replace(b'"NUMBER"', number)
    assert_error(post(server, "/v1/chat/completions", body), 400, "invalid_json")


@pytest.mark.parametrize("item", [b"[]", b"{}", b'{"role":"user","content":"[{"}'])
def test_a_body_of_a_million_containers_is_refused_at_once(server: RunningServer, item: bytes) -> None:
    body = json.dumps({**GOOD, "x": "ITEMS"}).encode().replace(b'"ITEMS"', b"[" + b",".join([item] * 400_000) + b"]")
    assert "100000" in assert_error(post(server, "/v1/chat/completions", body), 400, "invalid_json")


def test_brackets_in_a_text_are_text(server: RunningServer) -> None:
    response = chat(server, messages=[{"role": "user", "content": '[{"' * 100}])
    assert response.status_code == 200


def test_an_integer_may_be_written_with_a_point(server: RunningServer) -> None:
    body = json.dumps({**GOOD, "n": 1.0, "max_tokens": 2.0, "seed": -0.0}).encode()
    assert b"2.0" in body
    assert post(server, "/v1/chat/completions", body).json()["usage"]["completion_tokens"] <= 2


def test_of_a_name_given_twice_the_last_one_counts(server: RunningServer) -> None:
    body = json.dumps(GOOD).encode().replace(b"{", b'{"model": "none", ', 1)
    assert post(server, "/v1/chat/completions", body).status_code == 200


def test_characters_are_streamed_whole_and_arrive_as_they_were(server: RunningServer) -> None:
    text = "".join(
        choice["delta"].get("content") or ""
        for choice in deltas(server, response_format=forced(ODD_TEXT), max_tokens=200)
    )
    assert json.loads(text) == ODD_TEXT
    assert "\ufffd" not in text


def test_odd_characters_in_a_prompt_are_read(server: RunningServer) -> None:
    short = chat(server, messages=[{"role": "user", "content": "a"}]).json()["usage"]["prompt_tokens"]
    odd = chat(server, messages=[{"role": "user", "content": ODD_TEXT}]).json()["usage"]["prompt_tokens"]
    assert odd > short + 10


def test_a_forced_call_that_is_cut_leaks_no_text(server: RunningServer) -> None:
    choice = said(server, tools=[TOOL], tool_choice="required", max_tokens=3)
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "length")
    streamed = list(deltas(server, tools=[TOOL], tool_choice="required", max_tokens=3))
    assert not any(c["delta"].get("content") for c in streamed)
    assert streamed[-1]["finish_reason"] == "length"


def test_every_choice_has_its_own_forced_call(server: RunningServer) -> None:
    choices = chat(server, tools=[TOOL], tool_choice="required", max_tokens=40, n=3, temperature=1.5).json()["choices"]
    calls = [call for choice in choices for call in choice["message"]["tool_calls"]]
    assert len({call["id"] for call in calls}) == 3
    assert all(json.loads(call["function"]["arguments"])["city"] in {"Paris", "Rome"} for call in calls)


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_a_call_cover_its_tokens(server: RunningServer, stream: bool) -> None:
    fields: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 40, "logprobs": True}
    choices = list(deltas(server, **fields)) if stream else [said(server, **fields)]
    entries = [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
    spelled = b"".join(bytes(entry["bytes"]) for entry in entries).decode()
    assert json.loads(spelled)["name"] == "get_weather"
    assert all(entry["logprob"] <= 0 and entry["top_logprobs"] == [] for entry in entries)


def test_results_of_tools_may_come_in_parts(server: RunningServer) -> None:
    parts = [{"type": "text", "text": "Sunny"}, {"type": "text", "text": " and warm."}]
    turns = [USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "call_1"}]
    whole = chat(server, messages=[*turns[:2], {**turns[2], "content": "Sunny and warm."}], tools=[TOOL])
    split = chat(server, messages=[*turns[:2], {**turns[2], "content": parts}], tools=[TOOL])
    assert split.json()["usage"]["prompt_tokens"] == whole.json()["usage"]["prompt_tokens"]


def test_a_refusal_is_a_part_of_an_answer(server: RunningServer) -> None:
    refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    assert chat(server, messages=[USER, refusal, USER]).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("OPTIONS", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/embeddings", "POST"),
        ("OPTIONS", "/v1/models", "GET, HEAD"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", f"/v1/models/{MODEL}", "GET, HEAD"),
        ("TRACE", "/admin/claim", "POST"),
        ("GET", "/admin/keys/name", "DELETE, PATCH"),
    ],
)
def test_another_method_is_a_405_that_names_the_right_ones(
    server: RunningServer, method: str, path: str, allow: str
) -> None:
    response = httpx2.request(method, f"{server.root_url}{path}")
    assert_error(response, 405, "method_not_allowed")
    assert response.headers["allow"] == allow


@pytest.mark.parametrize(
    "path",
    [
        *("/console", "/console/", "/v1", "/v1/models/", "/v1/chat/completions/"),
        *("//v1/models", "/v1//models", "/%00", "/v1/assistants"),
    ],
)
def test_a_path_that_is_not_ours_is_a_404(server: RunningServer, path: str) -> None:
    assert_error(httpx2.get(f"{server.root_url}{path}"), 404, "not_found")


@pytest.mark.parametrize("spelling", ["org/chat:latest", "org%2Fchat%3Alatest", "org%2fchat:latest"])
def test_a_models_id_may_be_escaped_or_not(server: RunningServer, spelling: str) -> None:
    assert httpx2.get(f"{server.base_url}/models/{spelling}").json()["id"] == "org/chat:latest"


@pytest.mark.parametrize("spelling", ["nope", "a/b", "..%2f..", "%00", "%ff", "😀", "x" * 5000])
def test_a_model_that_is_not_there_is_a_404_of_a_model(server: RunningServer, spelling: str) -> None:
    assert_error(httpx2.get(f"{server.base_url}/models/{spelling}"), 404, "model_not_found", "model")


def test_a_head_request_has_the_headers_alone(server: RunningServer) -> None:
    response = httpx2.head(f"{server.base_url}/models")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["x-request-id"]
