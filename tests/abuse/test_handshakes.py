"""TLS handshakes under way are connections like others: counted, capped and reaped, and a good one costs nothing."""

from __future__ import annotations

import contextlib
import gc
import logging
import select
import socket
import ssl
import time
from pathlib import Path

import pytest

from appliance.server.http.connection import ConnectionLimits
from tests.abuse.bare_server import HEAD, BareServer, answer_of, bare_server

pytestmark = pytest.mark.alone

FAST = ConnectionLimits(head_timeout_s=0.6, reap_interval_s=0.05)
BUSY = b"POST /v1/embeddings HTTP/1.1\r\n" + HEAD + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
GET = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def a_client() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def ask(server: BareServer, source: str = "") -> int:
    with server.connect(source=source) as sock, a_client().wrap_socket(sock) as secure:
        secure.sendall(GET)
        return answer_of(secure)[0]


def hello() -> bytes:
    """The first message of a handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    handshake = a_client().wrap_bio(incoming, outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        handshake.do_handshake()
    return outgoing.read()


def is_closed(sock: socket.socket, timeout_s: float = 10.0) -> bool:
    assert select.select([sock], [], [], timeout_s)[0]
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def test_two_hundred_handshakes_that_hang_do_not_stop_a_normal_request(tmp_path: Path) -> None:
    part = hello()
    with bare_server(tmp_path, secure=True) as server, contextlib.ExitStack() as stack:
        for i in range(200):
            stack.enter_context(server.connect([b"", part[:5], part, b"\x16\x03\x01"][i % 4]))
        for _ in range(10):
            assert ask(server) == 200


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", "hello"])
def test_a_handshake_that_does_not_end_is_cut(tmp_path: Path, sent: bytes | str) -> None:
    data = hello() if isinstance(sent, str) else sent
    with bare_server(tmp_path, FAST, secure=True) as server, server.connect(data) as sock:
        assert is_closed(sock)
        until_none(server)


def until_none(server: BareServer) -> None:
    deadline_s = time.monotonic() + 10
    while server.listener.num_connections:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 300])
def test_what_is_no_handshake_is_closed_without_a_traceback(
    tmp_path: Path, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), bare_server(tmp_path, secure=True) as server:
        for _ in range(5):
            with server.connect(sent) as sock:
                assert is_closed(sock)
        until_none(server)
        assert ask(server) == 200
    assert not [r for r in caplog.records if r.exc_info or r.levelno >= logging.WARNING]


def test_plain_http_on_the_port_of_https_is_told_so(tmp_path: Path) -> None:
    with bare_server(tmp_path, secure=True) as server:
        with server.connect(GET) as sock:
            status, headers, body = answer_of(sock)
        assert (status, body["error"]["code"]) == (400, "https_required")
        assert headers["x-request-id"]
        assert ask(server) == 200


def test_a_hello_that_comes_byte_by_byte_is_taken(tmp_path: Path) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    handshake = a_client().wrap_bio(incoming, outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        handshake.do_handshake()
    with bare_server(tmp_path, secure=True) as server, server.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in outgoing.read():
            sock.sendall(bytes([byte]))
        incoming.write(sock.recv(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            handshake.do_handshake()
        assert handshake.version() == "TLSv1.3"


def test_a_client_that_leaves_in_its_handshake_is_not_counted_any_more(tmp_path: Path) -> None:
    with bare_server(tmp_path, secure=True) as server:
        for data in (b"", hello()[:20], hello()):
            for _ in range(10):
                server.connect(data).close()
        until_none(server)


def test_what_was_accepted_while_the_server_closes_is_closed_too(tmp_path: Path) -> None:
    for _ in range(3):
        with bare_server(tmp_path, secure=True) as server:
            for data in (b"", hello()[:20], hello()) * 10:
                server.connect(data).close()
        gc.collect()  # a transport that was left open says so now, and its warning is an error


def test_handshakes_count_towards_the_cap_and_give_way_to_new_connections(tmp_path: Path) -> None:
    limits = ConnectionLimits(max_per_address=5)
    with bare_server(tmp_path, limits, secure=True) as server, contextlib.ExitStack() as stack:
        hanging = [stack.enter_context(server.connect()) for _ in range(5)]
        assert ask(server) == 200
        assert is_closed(hanging[0])
        assert server.listener.num_connections <= 5
        assert ask(server, source="127.0.0.2") == 200


def test_beyond_the_cap_a_secure_connection_is_told_503(tmp_path: Path) -> None:
    limits = ConnectionLimits(max_per_address=2)
    with bare_server(tmp_path, limits, secure=True) as server, contextlib.ExitStack() as stack:
        for _ in range(2):
            busy = stack.enter_context(a_client().wrap_socket(stack.enter_context(server.connect())))
            busy.sendall(BUSY)
            assert b"100 Continue" in busy.recv(1000)
        assert ask(server) == 503
        assert ask(server, source="127.0.0.2") == 200


def test_bytes_that_come_with_the_end_of_the_handshake_are_not_lost(tmp_path: Path) -> None:
    """The client's last message of the handshake and its request in one packet."""
    with bare_server(tmp_path, secure=True) as server, server.connect() as sock:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secure = a_client().wrap_bio(incoming, outgoing)
        while True:
            try:
                secure.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        secure.write(GET)
        sock.sendall(outgoing.read())
        received = b""
        while b"}" not in received:
            incoming.write(sock.recv(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                received += secure.read(65536)
        assert received.startswith(b"HTTP/1.1 200")
