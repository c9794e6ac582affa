"""Clients and proxies with habits of their own: HTTP/1.0, cookies of other programs, requests sent ahead."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.abuse.bare_server import BareServer, answer_of, bare_server, is_error_object

GOOD = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
COOKIE = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nCookie: a=%s\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareServer]:
    with bare_server(tmp_path_factory.mktemp("home")) as running:
        yield running


def everything(server: BareServer, *parts: bytes) -> bytes:
    with server.connect() as sock:
        for part in parts:
            sock.sendall(part)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def test_a_probe_in_http_1_0_needs_no_host(server: BareServer) -> None:
    assert everything(server, b"GET /v1/models HTTP/1.0\r\n\r\n").split(b" ")[1] == b"200"
    assert everything(server, b"GET /v1/models HTTP/1.0\r\nHost: evil.example\r\n\r\n").split(b" ")[1] == b"421"
    assert everything(server, b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n").split(b" ")[1] == b"400"


def test_cookies_of_other_programs_are_taken_and_too_many_are_refused_as_such(server: BareServer) -> None:
    assert everything(server, COOKIE % (b"x" * 12_000)).split(b" ")[1] == b"200"
    with server.connect() as sock:
        sock.sendall(COOKIE % (b"x" * 40_000))
        status, _, body = answer_of(sock)
    assert status == 431
    assert is_error_object(body)
    assert body["error"]["code"] == "request_header_fields_too_large"


@pytest.mark.parametrize(
    "broken", [b"GE T / HTTP/1.1\r\n\r\n", b"\x00\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
)
def test_good_requests_before_a_broken_one_are_answered(server: BareServer, broken: bytes) -> None:
    received = everything(server, GOOD + GOOD + broken)
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert received.count(b" 400 Bad Request") == 1
    assert received.endswith(b"}")


def test_requests_with_bodies_before_a_broken_one_are_answered(server: BareServer) -> None:
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    asked = head + b'Content-Length: 31\r\n\r\n{"model": "none", "input": "x"}'
    received = everything(server, asked + asked + b"GE T / HTTP/1.1\r\n\r\n")
    assert received.count(b"HTTP/1.1 503 Service Unavailable") == 2  # it has no models
    assert received.count(b" 400 Bad Request") == 1


def test_many_requests_in_one_packet_are_all_answered(server: BareServer) -> None:
    last = GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert everything(server, GOOD * 99 + last).count(b"HTTP/1.1 200 OK") == 100


def test_a_client_that_has_closed_its_half_is_one_that_left(server: BareServer) -> None:
    with server.connect(GOOD) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: sock.recv(65536), b"")).count(b"HTTP/1.1 200") <= 1
    assert server.get()[0] == 200


def test_a_path_with_two_slashes_is_another_path(server: BareServer) -> None:
    assert server.get("/v1//models")[0] == 404
