"""Headers of every answer, on whatever floor it arises."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from appliance.server.http.connection import ConnectionLimits
from tests.abuse.bare_server import HEAD, BareServer, answer_of, bare_server

PLAIN = {
    "an answer": b"GET /v1/models HTTP/1.1\r\n" + HEAD,
    "an unknown path": b"GET /nope HTTP/1.1\r\n" + HEAD,
    "another method": b"DELETE /v1/models HTTP/1.1\r\n" + HEAD,
    "no key": b"GET /admin/keys HTTP/1.1\r\n" + HEAD,
    "not HTTP": b"GET / HTTP/1.1\r\nHost: a b\r\n\x00: x\r\n",
    "another expectation": b"POST /v1/embeddings HTTP/1.1\r\nExpect: cake\r\nContent-Length: 2\r\n" + HEAD,
}


def headers_of(sock: socket.socket) -> dict[str, str]:
    return answer_of(sock)[1]


def assert_plain(headers: dict[str, str]) -> None:
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["server"] == "lantern"


@pytest.mark.parametrize("request_bytes", PLAIN.values(), ids=PLAIN.keys())
def test_no_answer_names_versions_or_lets_a_browser_guess_its_type(tmp_path: Path, request_bytes: bytes) -> None:
    with bare_server(tmp_path) as server, server.connect(request_bytes + b"Connection: close\r\n\r\n") as sock:
        assert_plain(headers_of(sock))


def test_refusals_without_a_request_have_the_same_headers(tmp_path: Path) -> None:
    limits = ConnectionLimits(head_timeout_s=0.2, reap_interval_s=0.05)
    with bare_server(tmp_path, limits) as server, server.connect(b"GET ") as sock:
        assert_plain(headers_of(sock))


@pytest.mark.parametrize("max_waiting", [0, 8])
def test_connections_beyond_the_caps_are_refused_with_the_same_headers(tmp_path: Path, max_waiting: int) -> None:
    limits = ConnectionLimits(max_connections=1, max_waiting=max_waiting)
    with bare_server(tmp_path, limits) as server, _busy(server), server.connect() as sock:
        if max_waiting:  # else it is refused at once, without a request
            sock.sendall(PLAIN["an answer"] + b"\r\n")
        assert_plain(headers_of(sock))


def _busy(server: BareServer) -> socket.socket:
    """Hold a connection whose request runs."""
    held = server.connect(
        b"POST /v1/embeddings HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n" + HEAD + b"\r\n"
    )
    assert b"100 Continue" in held.recv(1000)
    return held
