"""Expect: 100-continue (RFC 9110, section 10.1.1) is answered only once a request was admitted.

aiohttp says 100 before any of our checks, so that a client without a key, or with far too large a body, would send all
of it first.
"""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import HttpVersion11, hdrs, web

_CONTINUE = "100-continue"


def with_late_continue(routes: Iterable[web.AbstractRouteDef]) -> list[web.RouteDef]:
    """The routes, which say 100 no more by themselves; `continue_if_expected` does."""
    return [
        web.RouteDef(route.method, route.path, route.handler, {**route.kwargs, "expect_handler": _check})
        for route in routes
        if isinstance(route, web.RouteDef)
    ]


async def continue_if_expected(request: web.Request) -> None:
    """Let a client that waits for it send its body."""
    if _expectation(request) == _CONTINUE and request.can_read_body:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # aiohttp does the same: the answer itself has not begun


async def _check(request: web.Request) -> None:
    if _expectation(request) not in {None, _CONTINUE}:
        raise web.HTTPExpectationFailed


def _expectation(request: web.Request) -> str | None:
    """In lower case; HTTP/1.0 has none."""
    expected = request.headers.get(hdrs.EXPECT) if request.version >= HttpVersion11 else None
    return expected.lower() if expected else None
