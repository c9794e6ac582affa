"""Any JSON in any place of a good request is answered, or refused in shape; never a failure of ours."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import RunningServer
from tests.server.wire import JSON, MODEL, assert_error, post

Place = tuple[str | int, ...]
LENGTHS = {"max_tokens", "max_completion_tokens"}  # left as they are, or good ones would take all the time there is

CHAT: dict[str, Any] = {
    "model": MODEL,
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "hi", "name": "Ann"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "1"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "refusal": None},
        {"role": "user", "content": [{"type": "text", "text": "more"}]},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "f",
                "description": "d",
                "parameters": {
                    "type": "object",
                    "properties": {"a": {"type": "integer", "minimum": 0}, "b": {"$ref": "#/$defs/B"}},
                    "required": ["a"],
                    "$defs": {"B": {"enum": ["x", None]}},
                },
                "strict": True,
            },
        }
    ],
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"function": {"name": "f"}}]}},
    "parallel_tool_calls": False,
    "max_tokens": 1,
    "max_completion_tokens": 1,
    "stop": ["x"],
    "logit_bias": {"5": 1},
    "logprobs": True,
    "top_logprobs": 1,
    "n": 1,
    "seed": 1,
    "metadata": {"a": "b"},
    "chat_template_kwargs": {"a": [1]},
    "prediction": {"type": "content", "content": "x"},
}
SCHEMA: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 2,
    "max_completion_tokens": 2,
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "n",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {
                    "a": {"anyOf": [{"type": "string", "pattern": "^a+$"}, {"type": "null"}]},
                    "b": {"type": "array", "items": {"type": "number", "maximum": 9}, "minItems": 1, "maxItems": 2},
                    "c": {"type": "string", "format": "date", "maxLength": 20},
                },
                "required": ["a"],
                "additionalProperties": False,
            },
        },
    },
}
COMPLETION: dict[str, Any] = {
    "model": MODEL,
    "prompt": ["a", [1, 2], "b"],
    "max_tokens": 1,
    "echo": False,
    "logprobs": 1,
    "stop": "x",
    "n": 1,
    "best_of": 1,
    "stream": False,
    "logit_bias": {"5": 1},
    "suffix": None,
}
EMBEDDING: dict[str, Any] = {
    "model": "all-minilm-l6-v2",
    "input": ["a", "b"],
    "encoding_format": "float",
    "dimensions": 384,
    "user": "me",
    "truncate": False,
}


def places(value: Any, at: Place = ()) -> list[Place]:
    """Every place within a JSON value, the whole left out."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in inner for place in [(*at, key), *places(item, (*at, key))]]


def changed(request: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    request = copy.deepcopy(request)
    target: Any = request
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    return request


def changes(*requests: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    targets = [(request, place) for request in requests for place in places(request) if place[-1] not in LENGTHS]
    return st.builds(lambda target, value: changed(target[0], target[1], value), st.sampled_from(targets), JSON)


def assert_answered_or_refused(server: RunningServer, path: str, request: dict[str, Any]) -> None:
    response = post(server, path, json.dumps(request).encode())
    if response.status_code != 200:
        assert 400 <= response.status_code < 500, response.text
        assert_error(response, response.status_code)


any_place = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def test_the_requests_are_good_to_begin_with(server: RunningServer) -> None:
    for path, request in (
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", SCHEMA),
        ("/v1/completions", COMPLETION),
        ("/v1/embeddings", EMBEDDING),
    ):
        assert post(server, path, json.dumps(request).encode()).status_code == 200


@any_place
@given(request=changes(CHAT, SCHEMA))
def test_any_json_anywhere_in_a_chat_request(server: RunningServer, request: dict[str, Any]) -> None:
    assert_answered_or_refused(server, "/v1/chat/completions", request)


@any_place
@given(request=changes(COMPLETION))
def test_any_json_anywhere_in_a_completion_request(server: RunningServer, request: dict[str, Any]) -> None:
    assert_answered_or_refused(server, "/v1/completions", request)


@any_place
@given(request=changes(EMBEDDING))
def test_any_json_anywhere_in_an_embedding_request(server: RunningServer, request: dict[str, Any]) -> None:
    assert_answered_or_refused(server, "/v1/embeddings", request)
