"""Expect: 100-continue (RFC 9110, section 10.1.1), answered only once a request was admitted.

aiohttp sends 100 before any of our checks, so that a client without a key, or with a body that is far too large, would
send all of it first.
"""

from __future__ import annotations

from aiohttp import HttpVersion11, hdrs, web

_CONTINUE = "100-continue"


async def refuse_other_expectations(request: web.Request) -> None:
    """Refuse every expectation but 100-continue; aiohttp calls this before the checks, in place of sending 100."""
    if _expectation(request) not in {None, _CONTINUE}:
        raise web.HTTPExpectationFailed


async def continue_if_expected(request: web.Request) -> None:
    """Tell a client that waits for 100 to send its body."""
    if _expectation(request) == _CONTINUE and request.can_read_body:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # aiohttp does the same: the answer itself has not begun


def _expectation(request: web.Request) -> str | None:
    """Return the expectation in lower case; HTTP/1.0 has none."""
    expected = request.headers.get(hdrs.EXPECT) if request.version >= HttpVersion11 else None
    return expected.lower() if expected else None
