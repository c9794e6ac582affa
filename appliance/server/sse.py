"""Server-sent events (WHATWG HTML, section 9.2): pings by wall clock, bounded patience with slow readers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from appliance.errors import LanternError
from appliance.server.context import REQUEST_ID
from appliance.server.error_body import InternalError, error_body

_LOGGER = logging.getLogger(__name__)

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}
_MAX_KEPT_BYTES = 60 << 10  # for a client that does not read; one more event may come on top

_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class EventStream:
    """One response of events; owned by its handler."""

    def __init__(self, response: web.StreamResponse, writer: AbstractStreamWriter, *, write_timeout_s: float) -> None:
        self.response = response
        self._writer = writer
        self._write_timeout_s = write_timeout_s
        self._last_write_s = asyncio.get_running_loop().time()

    async def send(self, payload: Mapping[str, Any]) -> None:
        """One event of JSON."""
        await self._write(b"data: " + _to_json(payload).encode() + b"\n\n")

    async def done(self) -> None:
        """The last event, as OpenAI ends a stream."""
        await self._write(b"data: [DONE]\n\n")

    async def fail(self, err: LanternError) -> None:
        """The last event of a stream that cannot go on; the connection closes."""
        await self.send(error_body(err))
        self.response.force_close()
        await self.response.write_eof()

    async def ping_when_idle(self, interval_s: float) -> None:
        """Send a comment whenever nothing was sent for the interval; runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            idle_s = loop.time() - self._last_write_s
            if idle_s >= interval_s:
                await self._write(b": ping\n\n")
                idle_s = 0.0
            await asyncio.sleep(interval_s - idle_s)

    async def _write(self, data: bytes) -> None:
        async with asyncio.timeout(self._write_timeout_s):
            await self.response.write(data)
            await self._writer.drain()  # aiohttp itself looks only once in 64 KiB
        self._last_write_s = asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def event_stream(
    request: web.Request, *, headers: Mapping[str, str], ping_interval_s: float = 5.0, write_timeout_s: float = 30.0
) -> AsyncIterator[EventStream]:
    """Begin an event stream; an error inside the block becomes its last event, and the connection closes."""
    response = web.StreamResponse(headers={**_HEADERS, **headers})
    response.enable_chunked_encoding()
    await response.prepare(request)
    if request.transport is not None:
        request.transport.set_write_buffer_limits(high=_MAX_KEPT_BYTES)
    stream = EventStream(response, request.writer, write_timeout_s=write_timeout_s)
    pings = asyncio.create_task(stream.ping_when_idle(ping_interval_s))
    try:
        yield stream
        await response.write_eof()
    except LanternError as err:
        await stream.fail(err)
    except TimeoutError:
        _LOGGER.info("%s: the client stopped reading; its stream is cut", request.get(REQUEST_ID))
        if request.transport is not None:
            request.transport.abort()
    except ConnectionError:
        raise
    except Exception:
        _LOGGER.exception("%s failed in its stream", request.get(REQUEST_ID))
        await stream.fail(InternalError.of(request.get(REQUEST_ID, "-")))
    finally:
        pings.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError, TimeoutError):
            await pings
