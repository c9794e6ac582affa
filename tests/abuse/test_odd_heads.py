"""Heads that two programs may read in two ways, and heads that name other places: refused in shape."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.abuse.bare_server import BareServer, answer_of, bare_server, is_error_object

KEY = "sk-of-a-user"
_OWN = b"Host: localhost\r\nAuthorization: Bearer sk-of-a-user\r\nConnection: close\r\n"
_POST = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json\r\n" + _OWN
_CHUNK = b"2\r\n{}\r\n0\r\n\r\n"

FRAMINGS = [
    *(
        b"Transfer-Encoding: " + value
        for value in (b"xchunked", b"chunked, identity", b"chunked, chunked", b"gzip, chunked")
    ),
    *(
        b"Transfer-Encoding: " + value
        for value in (b'"chunked"', b"chunked;q=1", b"\x0bchunked", b"chunked\x00", b"gzip")
    ),
    b"Transfer-Encoding : chunked",
    b" Transfer-Encoding: chunked",
    b"Transfer-Encoding\t: chunked",
    b"X: y\nTransfer-Encoding: chunked\r\nContent-Length: 2",
    b"X: y\rTransfer-Encoding: chunked\r\nContent-Length: 2",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 2",
    b"Content-Length: 2\r\nTransfer-Encoding: chunked",
    *(
        b"Content-Length: " + value
        for value in (b"+2", b"-2", b"2, 2", b"2,3", b"2 2", b"2\x00", b"2e0", b"\xb2", b"0x2", b"1_0")
    ),
    b"Content-Length: 2\r\nContent-Length: 3",
]
CHUNKS = [
    *(
        size + b"\r\n{}\r\n0\r\n\r\n"
        for size in (b"-2", b"+2", b"0x2", b"2 ", b" 2", b"1_0", b"2\x00", b"zz", b"F" * 21)
    ),
    b"2;" + b"a" * 70_000 + b"\r\n{}\r\n0\r\n\r\n",
    b"2;a\rb\r\n{}\r\n0\r\n\r\n",
    b"2\n{}\r\n0\r\n\r\n",
    b"2\r\n{}x\r\n0\r\n\r\n",
    b"2\r\n{}\r\n0\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(3000)) + b"\r\n",
    b"2\r\n{}\r\n0\r\nno trailer\r\n\r\n",
]
LINES = [
    *(b"", b"\x00", b"GET", b"GET /v1/models", b"GET /v1/models HTTP/1.1 x"),
    *(
        b"GET\t/v1/models\tHTTP/1.1",
        b"GET /v1/models HTTP/2.0",
        b"GET /v1/models HTTP/0.9",
        b"GET /v1/models HTTP/11.1",
    ),
    *(
        b"GET /v1/models HTTP/1.",
        b"GET /v1/models FTP/1.1",
        b"G\x00T / HTTP/1.1",
        b'"GET" / HTTP/1.1',
        b"GET \xff HTTP/1.1",
    ),
    *(b"TRACE /v1/models HTTP/1.1", b"PROPFIND /v1/models HTTP/1.1", b"OPTIONS * HTTP/1.1", b"PRI * HTTP/2.0"),
    *(b"CONNECT evil.example:443 HTTP/1.1", b"x" * 500 + b" / HTTP/1.1", b"PATCH /v1/models HTTP/1.1"),
]
TARGETS = [
    *(
        b"http://evil.example/v1/models",
        b"http://localhost/v1/models",
        b"//evil.example/v1/models",
        b"?x",
        b"#f",
        b"@evil/",
    ),
    *(b"http://localhost@evil/", b"http://[::1/", b"http://[zz]/", b"http://localhost:99999/", b"http://localhost:ab/"),
    *(
        b"/v1/../admin/models",
        b"/%2e%2e/%2e%2e/etc/passwd",
        b"/v1//models",
        b"//v1/models",
        b"/v1/models/%00",
        b"/Admin/models",
    ),
    *(
        b"/v1/models/..",
        b"/v1/models/%2e%2e%2fetc%2fpasswd",
        b"/v1/models/%zz",
        b"/v1/models/%ff%fe",
        b"/v1/models/%u0041",
    ),
    *(
        b"/health/../admin/models",
        b"/health%2f..%2fadmin",
        b"/health/",
        b"/HEALTH",
        b"/health%00",
        b"/health;x",
        b"/./admin",
    ),
]
FOREIGN_HOSTS = [
    *(
        b"evil.example",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example",
        b"127.0.0.1.nip.io",
        b"evil.local",
        b"",
        b".",
    ),
    *(
        b"localhost@evil",
        b"localhost#evil",
        b"localhost evil",
        b"localhost,evil",
        b"127.1",
        b"2130706433",
        b"0x7f.1",
        b"null",
    ),
    *(
        b"0177.0.0.1",
        b"[::1",
        b"::1]",
        b"[::1]x",
        b"[::1]:x",
        b"[]",
        b"[v1.a]",
        b"localhost:x",
        b"localhost:-1",
        b"localhost/",
    ),
    *(b"http://localhost", b"127.0.0.1/24", b"*", b"%6cocalhost", b"a" * 5000, b"localhost\r\nHost: localhost"),
]
OWN_HOSTS = [
    b"localhost",
    b"LOCALHOST",
    b"localhost.",
    b"localhost:80",
    b"127.0.0.1:1",
    b"[::1]",
    b"[FE80::1]:80",
    b"192.168.1.20",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareServer]:
    with bare_server(tmp_path_factory.mktemp("home"), keys=[KEY]) as running:
        yield running


def status_of(server: BareServer, sent: bytes) -> int:
    """Of the only answer, which is an error in shape or a success."""
    with server.connect() as sock:
        with contextlib.suppress(ConnectionError):  # refused before all of it was sent
            sock.sendall(sent)
        status, headers, body = answer_of(sock)
    assert headers["x-request-id"]
    assert status < 400 or is_error_object(body)
    return status


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_body_that_can_be_framed_in_two_ways_is_refused(server: BareServer, framing: bytes) -> None:
    assert status_of(server, _POST + framing + b"\r\n\r\n" + _CHUNK) in {400, 411, 413, 415, 501}


@pytest.mark.parametrize("chunks", CHUNKS, ids=range(len(CHUNKS)))
def test_chunks_that_are_none_are_refused(server: BareServer, chunks: bytes) -> None:
    assert status_of(server, _POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks) in {400, 413}


@pytest.mark.parametrize("line", LINES)
def test_an_odd_first_line_is_refused(server: BareServer, line: bytes) -> None:
    assert 400 <= status_of(server, line + b"\r\n" + _OWN + b"\r\n") < 500


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "own", [_OWN, b"Host: localhost\r\nConnection: close\r\n"], ids=["with a key", "without a key"]
)
def test_a_target_that_leads_elsewhere_reaches_nothing(server: BareServer, target: bytes, own: bytes) -> None:
    status = status_of(server, b"GET " + target + b" HTTP/1.1\r\n" + own + b"\r\n")
    assert 400 <= status < 500 or (status == 503 and target.startswith(b"/v1/models/"))  # no model is ready here


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
@pytest.mark.parametrize("path", [b"/v1/models", b"/health"])
def test_a_host_that_is_not_ours_is_refused_on_every_path(server: BareServer, path: bytes, host: bytes) -> None:
    sent = b"GET " + path + b" HTTP/1.1\r\n" + _OWN.replace(b"localhost", host, 1) + b"\r\n"
    assert status_of(server, sent) in {400, 421}


@pytest.mark.parametrize("host", OWN_HOSTS)
def test_our_own_names_and_every_address_are_served(server: BareServer, host: bytes) -> None:
    assert status_of(server, b"GET /v1/models HTTP/1.1\r\n" + _OWN.replace(b"localhost", host, 1) + b"\r\n") == 200


def test_requests_behind_one_that_was_refused_are_not_answered_by_its_body(server: BareServer) -> None:
    hidden = b"GET /v1/models HTTP/1.1\r\n" + _OWN + b"\r\n"
    head = b"POST /nope HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    assert status_of(server, head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(hidden) + hidden) == 401
