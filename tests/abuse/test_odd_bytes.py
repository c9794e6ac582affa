"""Bytes that are no proper request: each gets the error object, a 4xx, and no traceback in the log."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.server.http.connection import ConnectionLimits
from tests.abuse.bare_server import HEAD, BareServer, answer_of, bare_server, is_error_object

GET = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nConnection: close\r\n" + HEAD
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(32 << 20))

ODD: dict[str, list[bytes]] = {
    "a chunk without a size": [CHUNKED + b"ZZ\r\nabc\r\n"],
    "a chunk that is longer than it says": [CHUNKED + b"2\r\nabcdef\r\n0\r\n\r\n"],
    "a bad chunk after a good one": [CHUNKED + b"1\r\n{\r\n", b"-1\r\n\r\n"],
    "a body that is not what its encoding says": [POST + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde"],
    "a bomb": [POST + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB],
    "two framings": [POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
    "two lengths": [POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"],
    "a negative length": [POST + b"Content-Length: -5\r\n\r\n"],
    "a length that is no number": [POST + b"Content-Length: 0x5\r\n\r\nabcde"],
    "a huge header": [GET + b"X: " + b"a" * 100_000 + b"\r\n\r\n"],
    "two thousand headers": [GET + b"".join(b"X%d: a\r\n" % i for i in range(2000)) + b"\r\n"],
    "a long target": [b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"],
    "a zero byte in the target": [b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n"],
    "a zero byte in a header": [GET + b"X: a\0b\r\n\r\n"],
    "a folded header": [GET + b"X: a\r\n b\r\n\r\n"],
    "a blank before the colon": [GET + b"X : a\r\n\r\n"],
    "an unknown expectation": [POST + b"Expect: 999\r\nContent-Length: 2\r\n\r\n{}"],
    "the preface of HTTP/2": [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
    "the hello of TLS": [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n"],
    "CONNECT": [b"CONNECT evil.example:1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"],
    "TRACE": [b"TRACE /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"],
    "no Host": [b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n"],
    "bytes as the content type": [POST.replace(b"application/json", b"\x80/\xff;;=") + b"Content-Length: 2\r\n\r\n{}"],
    "an unknown character set": [POST.replace(b"/json", b"/json; charset=klingon") + b"Content-Length: 2\r\n\r\n{}"],
    "a gigabyte that waits to be sent": [POST + b"Expect: 100-continue\r\nContent-Length: 1000000000\r\n\r\n"],
    "a gigabyte that does not come": [POST + b"Content-Length: 1000000000\r\n\r\n"],
    "two expectations": [POST + b"Expect: 100-continue, 100-continue\r\nContent-Length: 2\r\n\r\n{}"],
    "a page of another site, in capitals": [GET + b"Sec-Fetch-Site: CROSS-SITE\r\n\r\n"],
    "a page of two sites": [GET + b"Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site\r\n\r\n"],
    "a port in other digits": [GET.replace(b"localhost", b"localhost:\xd9\xa3") + b"\r\n"],
    "a port beyond all": [GET.replace(b"localhost", b"localhost:99999") + b"\r\n"],
    "a target of dots": [b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareServer]:
    limits = ConnectionLimits(body_idle_s=2.0, lingering_s=0.5)  # some of the clients wait for the end of one
    with bare_server(tmp_path_factory.mktemp("home"), limits) as running:
        yield running


@pytest.mark.parametrize("name", ODD)
def test_odd_bytes_get_a_4xx_in_shape_and_no_traceback(
    server: BareServer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), server.connect() as sock:
        for part in ODD[name]:
            sock.sendall(part)
        status, headers, body = answer_of(sock)
    assert 400 <= status < 500
    assert is_error_object(body)
    assert headers["x-request-id"]
    assert not [r for r in caplog.records if r.exc_info or r.levelno >= logging.WARNING]
    assert server.get()[0] == 200


def test_a_body_is_asked_for_only_of_who_may_send_it(tmp_path: Path) -> None:
    head = POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n"
    with bare_server(tmp_path, keys=["sk-of-a-user"]) as locked:
        with locked.connect(head + b"\r\n") as sock:
            assert sock.recv(65536).startswith(b"HTTP/1.1 401 ")
        with locked.connect(head + b"Authorization: Bearer sk-of-a-user\r\n\r\n") as sock:
            assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
            sock.sendall(b"{}")
            status, _, body = answer_of(sock)
            assert (status, body["error"]["param"]) == (400, "model")


def test_bytes_in_the_target_and_in_headers_do_not_hurt(server: BareServer) -> None:
    with server.connect(GET.replace(b"/v1/models", b"/v1/models/%zz%ff%00") + b"X-Y: \xff\xfe\r\n\r\n") as sock:
        assert is_error_object(answer_of(sock)[2])
