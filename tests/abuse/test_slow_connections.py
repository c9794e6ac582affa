"""Connections that stop half way, crowd in, or do not read: none of them costs anybody else anything."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from appliance.server.http.connection import ConnectionLimits
from tests.abuse.bare_server import HEAD, answer_of, bare_server, is_error_object

pytestmark = pytest.mark.alone

FAST = ConnectionLimits(head_timeout_s=0.6, body_idle_s=0.6, body_total_s=3.0, reap_interval_s=0.05, lingering_s=1.0)
PATIENT = ConnectionLimits(reap_interval_s=0.05)
POST = b"POST /v1/chat/completions HTTP/1.1\r\n" + HEAD


def test_two_hundred_slow_connections_do_not_stop_a_normal_request(tmp_path: Path) -> None:
    with bare_server(tmp_path, PATIENT) as server, contextlib.ExitStack() as stack:
        for i in range(200):
            stack.enter_context(
                server.connect([b"", b"G", b"GET / HTTP/1.1\r\nX-Sl", POST + b"Content-Length: 9\r\n\r\n{"][i % 4])
            )
        for _ in range(20):
            assert server.get()[0] == 200


@pytest.mark.parametrize("sent", [b"", b"GET /v1/mod", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
def test_a_head_that_does_not_end_is_a_408_in_shape(tmp_path: Path, sent: bytes) -> None:
    with bare_server(tmp_path, FAST) as server, server.connect(sent) as sock:
        status, headers, body = answer_of(sock)
    assert (status, body["error"]["code"]) == (408, "request_timeout")
    assert headers["x-request-id"]
    assert is_error_object(body)


def test_a_head_in_single_bytes_gains_no_time_from_its_progress(tmp_path: Path) -> None:
    with bare_server(tmp_path, FAST) as server, server.connect(b"GET /") as sock:
        num_sent = 0
        while not select.select([sock], [], [], 0.05)[0]:
            sock.sendall(b"G")
            num_sent += 1
        assert answer_of(sock)[0] == 408
        assert num_sent < 5 * FAST.head_timeout_s / 0.05


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"GET /", 408, id="a head without an end"),
        pytest.param(POST + b"Content-Length: 1000000\r\n\r\n", 408, id="a body that takes too long"),
        pytest.param(b"GET / HTTP/9\r\n\r\n", 400, id="no HTTP"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000, 431, id="a large head"),
    ],
)
def test_a_client_that_goes_on_after_a_refusal_reads_it_and_gets_no_reset(
    tmp_path: Path, sent: bytes, status: int
) -> None:
    limits = replace(FAST, body_total_s=0.3, lingering_s=30.0)
    with bare_server(tmp_path, limits) as server, server.connect(sent) as sock:
        while not select.select([sock], [], [], 0.02)[0]:
            sock.sendall(b"x")
        for _ in range(20):  # the first would be answered by a reset, and fail the next
            sock.sendall(b"x")
            time.sleep(0.02)
        assert answer_of(sock)[0] == status


def test_a_client_that_never_stops_sending_is_cut(tmp_path: Path) -> None:
    def send_for_ever(sock: socket.socket) -> NoReturn:
        while True:
            sock.sendall(b"x")
            time.sleep(0.02)

    limits = replace(FAST, lingering_s=0.2)
    with bare_server(tmp_path, limits) as server, server.connect(b"GET /") as sock, pytest.raises(ConnectionError):
        send_for_ever(sock)


@pytest.mark.parametrize("framing", [b"Content-Length: 1000\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"])
def test_a_body_that_stops_is_a_408_in_shape_and_no_traceback(
    tmp_path: Path, framing: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.INFO),
        bare_server(tmp_path, FAST) as server,
        server.connect(POST + framing) as sock,
    ):
        status, headers, body = answer_of(sock)
    assert (status, body["error"]["code"]) == (408, "request_timeout")
    assert headers["x-request-id"]
    assert not [r for r in caplog.records if r.exc_info or r.levelno >= logging.WARNING]


def test_a_body_that_comes_slowly_but_comes_is_read(tmp_path: Path) -> None:
    with (
        bare_server(tmp_path, FAST) as server,
        server.connect(POST + b"Content-Length: 12\r\nConnection: close\r\n\r\n") as sock,
    ):
        for byte in b'{"model":"":':
            assert not select.select([sock], [], [], 0.1)[0]
            sock.sendall(bytes([byte]))
        assert answer_of(sock)[0] == 400


def test_a_connection_that_waits_between_requests_is_not_cut(tmp_path: Path) -> None:
    request = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"
    with bare_server(tmp_path, FAST) as server, server.connect(request + b"\r\n") as sock:
        assert b"200 OK" in sock.recv(65536)
        assert not select.select([sock], [], [], 2 * FAST.head_timeout_s)[0]
        sock.sendall(request + b"Connection: close\r\n\r\n")
        assert answer_of(sock)[0] == 200


def test_beyond_the_cap_silent_connections_give_way_to_new_ones(tmp_path: Path) -> None:
    limits = ConnectionLimits(max_per_address=5)
    with bare_server(tmp_path, limits) as server, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(server.connect(b"GET")) for _ in range(5)]
        assert server.get()[0] == 200
        assert answer_of(silent[0])[0] == 503
        assert not select.select(silent[1:], [], [], 0)[0]


@pytest.mark.parametrize("ending", [b"Connection: close\r\n\r\n", b"\r\n"], ids=["closed", "kept"])
def test_three_hundred_idle_connections_refuse_no_request(tmp_path: Path, ending: bytes) -> None:
    with bare_server(tmp_path) as server, contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(server.connect())
        for _ in range(100):
            sock = stack.enter_context(server.connect(b"GET /v1/models HTTP/1.1\r\n" + HEAD + ending))
            assert b" 200 OK" in sock.recv(65536)


def test_a_crowd_that_only_connects_refuses_no_request(tmp_path: Path) -> None:
    limits = ConnectionLimits(max_connections=8, max_waiting=4)
    with bare_server(tmp_path, limits) as server, contextlib.ExitStack() as stack:
        for _ in range(10):
            for _ in range(30):
                stack.enter_context(server.connect())
            assert server.get()[0] == 200


def test_beyond_the_cap_with_everyone_at_work_a_connection_gets_an_honest_503(tmp_path: Path) -> None:
    limits = ConnectionLimits(max_per_address=3, max_waiting=4)
    with bare_server(tmp_path, limits) as server, contextlib.ExitStack() as stack:
        for _ in range(3):
            busy = stack.enter_context(server.connect(POST + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n"))
            assert b"100 Continue" in busy.recv(1000)
        refused = [
            stack.enter_context(server.connect(POST + b"Content-Length: 20000\r\n\r\n" + b" " * 20000))
            for _ in range(4)
        ]
        for sock in refused:
            status, headers, body = answer_of(sock)
            assert status == 503
            assert int(headers["retry-after"]) > 0
            assert is_error_object(body)
        with server.connect(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", source="127.0.0.2") as other:
            assert b"200 OK" in other.recv(65536)


def test_a_closed_connection_makes_room_again(tmp_path: Path) -> None:
    limits = ConnectionLimits(max_per_address=2, max_waiting=0)
    with bare_server(tmp_path, limits) as server:
        for _ in range(20):
            assert server.get()[0] == 200
