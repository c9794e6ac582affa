"""Requests and answers on the wire, byte by byte where it matters."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import RunningServer
from tests.server.wire import GOOD, JSON, assert_error, chat, post


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": 5}, "model"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "king", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": 5}, "stop"),
        ({"seed": "x"}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"stream": "yes"}, "stream"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
    ],
)
def test_a_bad_field_is_a_400_that_names_it(server: RunningServer, changes: dict[str, Any], param: str) -> None:
    assert_error(chat(server, **changes), 400, param=param)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"model": NaN}',
        b'{"model": Infinity}',
        b"[" * 10_000,
        b'{"a":' * 10_000,
        b'{"model":"x","messages":[{"role":"user","content":"\\ud800"}]}',
        b"1" * 5000,
    ],
)
def test_a_body_that_is_no_json_object_is_a_400(server: RunningServer, body: bytes) -> None:
    assert_error(post(server, "/v1/chat/completions", body), 400)


def test_a_missing_field_is_named(server: RunningServer) -> None:
    message = assert_error(post(server, "/v1/chat/completions", b"{}"), 400, "missing_required_parameter")
    assert "'" in message


def test_nulls_and_unknown_fields_are_ignored(server: RunningServer) -> None:
    fields = ("temperature", "top_p", "n", "stop", "stream", "seed", "tools", "tool_choice", "response_format", "user")
    assert chat(server, **dict.fromkeys(fields), blub={"x": [1]}, store=True, metadata={"a": "b"}).status_code == 200


def test_unknown_paths_and_methods_are_errors_in_shape(server: RunningServer) -> None:
    assert_error(httpx2.get(f"{server.root_url}/nope"), 404, "not_found")
    response = httpx2.get(f"{server.base_url}/chat/completions")
    assert_error(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_a_body_of_another_type_is_a_415(server: RunningServer) -> None:
    response = post(server, "/v1/chat/completions", json.dumps(GOOD).encode(), **{"content-type": "text/plain"})
    assert_error(response, 415)


def test_a_body_over_the_limit_is_a_413(server: RunningServer) -> None:
    assert_error(post(server, "/v1/chat/completions", b" " * (17 << 20)), 413)


def test_foreign_hosts_and_other_sites_are_refused(server: RunningServer) -> None:
    for host in ("evil.example", "localhost.evil.example", "evil.example:8080", "[::1", ""):
        assert_error(httpx2.get(f"{server.base_url}/models", headers={"host": host}), 421)
    assert_error(httpx2.get(f"{server.base_url}/models", headers={"sec-fetch-site": "cross-site"}), 403)
    for host in ("localhost", "LOCALHOST:99", "192.168.1.7", "[::1]:80"):
        assert httpx2.get(f"{server.base_url}/models", headers={"host": host}).status_code == 200


def raw(server: RunningServer, data: bytes) -> tuple[str, dict[str, Any]]:
    port = int(server.root_url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(data)
        received = b""
        while part := sock.recv(65536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return head.decode().splitlines()[0], json.loads(body)


@pytest.mark.parametrize(
    "data",
    [
        b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nbroken header\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ],
)
def test_odd_requests_get_an_error_object(server: RunningServer, data: bytes) -> None:
    status, body = raw(server, data)
    assert status.split()[1].startswith("4")
    assert set(body["error"]) == {"message", "type", "param", "code"}


def test_a_request_id_is_kept_or_made(server: RunningServer) -> None:
    url = f"{server.base_url}/models"
    assert httpx2.get(url, headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert httpx2.get(url, headers={"x-request-id": "a b\tc"}).headers["x-request-id"].startswith("req_")


def test_the_event_stream_is_one_of_events(server: RunningServer) -> None:
    with httpx2.stream("POST", f"{server.base_url}/chat/completions", json={**GOOD, "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-request-id"]
        events = response.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(e.startswith(("data: {", ": ")) for e in events[:-2])


FIELDS = ["model", "messages", "temperature", "top_p", "n", "stop", "stream", "seed", "logit_bias", "max_tokens"]
FIELDS += ["tools", "tool_choice", "response_format", "logprobs", "top_logprobs", "stream_options", "functions"]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=3))
def test_any_json_is_answered_or_refused_in_shape(server: RunningServer, changes: dict[str, Any]) -> None:
    body = json.dumps({**GOOD, **changes}).encode()
    response = post(server, "/v1/chat/completions", body)
    if response.status_code != 200:
        assert 400 <= response.status_code < 500
        assert_error(response, response.status_code)
