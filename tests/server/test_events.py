"""Streams of events apart from models: silence, failures that come late."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from appliance.errors import UnavailableError
from appliance.server.http.record import REQUEST_ID
from appliance.server.http.sse import EventStream, event_stream

_EVENT_BYTES = 4000
_MAX_KEPT_BYTES = 64 << 10

Script = Callable[[EventStream], Awaitable[None]]


async def read(script: Script, *, ping_interval_s: float = 30.0) -> str:
    """Return what a client reads of a stream that a script writes; the connection has to end well."""

    async def handler(request: web.Request) -> web.StreamResponse:
        request[REQUEST_ID] = "req_1"
        async with event_stream(request, headers={}, ping_interval_s=ping_interval_s) as events:
            await script(events)
        return events.response

    app = web.Application()
    app.router.add_get("/", handler)
    async with TestServer(app) as server, ClientSession() as session, session.get(server.make_url("/")) as response:
        return await response.text()


def test_silence_is_broken_by_comments() -> None:
    async def script(events: EventStream) -> None:
        await asyncio.sleep(0.2)  # the silence itself
        await events.send({"a": 1})
        await events.done()

    pings, end = asyncio.run(read(script, ping_interval_s=0.02)).split("data: ", 1)
    assert pings.count(": ping\n\n") >= 3
    assert end == '{"a":1}\n\ndata: [DONE]\n\n'


def test_who_stops_reading_is_cut_and_little_is_kept_for_them() -> None:
    async def run() -> list[int]:
        kept, is_over = list[int](), asyncio.Event()

        async def handler(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            async with event_stream(request, headers={}, write_timeout_s=0.3) as events:
                try:
                    while not is_over.is_set():
                        await events.send({"a": "x" * _EVENT_BYTES})
                        kept.append(request.transport.get_write_buffer_size())
                finally:
                    is_over.set()
            return events.response

        app = web.Application()
        app.router.add_get("/", handler)
        async with TestServer(app) as server, asyncio.timeout(30):
            _, writer = await asyncio.open_connection(server.host, server.port, limit=1)
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await is_over.wait()
            writer.close()
        return kept

    kept = asyncio.run(run())
    assert 0 < max(kept) <= _MAX_KEPT_BYTES


def test_a_late_refusal_is_the_last_event() -> None:
    async def script(events: EventStream) -> None:
        await events.send({"a": 1})
        raise UnavailableError("the server is stopping")

    first, last = asyncio.run(read(script)).removesuffix("\n\n").split("\n\n")
    assert first == 'data: {"a":1}'
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "service_unavailable"


def test_a_late_failure_of_ours_is_the_last_event_and_says_where_to_look(caplog: pytest.LogCaptureFixture) -> None:
    async def script(events: EventStream) -> None:
        await events.send({"a": 1})
        raise RuntimeError("a secret")

    with caplog.at_level(logging.ERROR):
        text = asyncio.run(read(script))
    error = json.loads(text.removesuffix("\n\n").split("\n\n")[-1].removeprefix("data: "))["error"]
    assert error["code"] == "internal_error"
    assert "req_1" in error["message"]
    assert "secret" not in text
    assert "[DONE]" not in text
    assert caplog.records
