"""Server-sent events (WHATWG HTML, section 9.2): pings by wall clock, bounded patience with slow readers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from aiohttp import HttpVersion11, web
from aiohttp.http import StreamWriter

from appliance.errors import LanternError
from appliance.server.http.errors import InternalError, error_body
from appliance.server.http.record import REQUEST_ID

_LOGGER = logging.getLogger(__name__)

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}
_MAX_KEPT_BYTES = 60 << 10  # for a client that does not read; one more event may come on top

_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encoded_event(name: str, payload: Mapping[str, Any]) -> bytes:
    """Return one event of JSON with a name, as it is sent."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _to_json(payload).encode())


class EventStream:
    """One response of events; owned by its handler."""

    def __init__(self, response: web.StreamResponse, request: web.Request, *, write_timeout_s: float) -> None:
        writer = request.writer
        assert isinstance(writer, StreamWriter)
        self.response = response
        self._writer = writer
        self._protocol = request.protocol
        self._write_timeout_s = write_timeout_s
        self._now_s = asyncio.get_running_loop().time
        self._last_write_s = self._now_s()

    async def send(self, payload: Mapping[str, Any]) -> None:
        """Send one event of JSON."""
        await self._write(b"data: " + _to_json(payload).encode() + b"\n\n")

    async def send_named(self, name: str, payload: Mapping[str, Any]) -> None:
        """Send one event of JSON with a name."""
        await self._write(encoded_event(name, payload))

    async def send_encoded(self, events: Iterable[bytes]) -> None:
        """Send events that were encoded before, in one write."""
        await self._write(b"".join(events))

    async def done(self) -> None:
        """Send the last event, as OpenAI ends a stream."""
        await self._write(b"data: [DONE]\n\n")

    async def fail(self, err: LanternError) -> None:
        """Send the last event of a stream that cannot go on, and close the connection."""
        await self.send(error_body(err))
        self.response.force_close()
        await self.response.write_eof()

    async def ping_when_idle(self, interval_s: float) -> None:
        """Send a comment whenever nothing was sent for the interval; runs until cancelled."""
        while True:
            idle_s = self._now_s() - self._last_write_s
            if idle_s >= interval_s:
                await self._write(b": ping\n\n")
                idle_s = 0.0
            await asyncio.sleep(interval_s - idle_s)

    async def _write(self, data: bytes) -> None:
        await self._writer.write(data, drain=False)  # aiohttp itself would look only once in 64 KiB
        if self._protocol.writing_paused:  # a timer for each event would cost as much as the rest of the event
            async with asyncio.timeout(self._write_timeout_s):
                await self._writer.drain()
        self._last_write_s = self._now_s()


@contextlib.asynccontextmanager
async def event_stream(
    request: web.Request, *, headers: Mapping[str, str], ping_interval_s: float = 5.0, write_timeout_s: float = 30.0
) -> AsyncIterator[EventStream]:
    """Begin an event stream; an error inside the block becomes its last event, and the connection closes."""
    response = web.StreamResponse(headers={**_HEADERS, **headers})
    if request.version >= HttpVersion11:
        response.enable_chunked_encoding()
    else:  # HTTP/1.0 knows no chunks: the body ends with the connection
        response.force_close()
    await response.prepare(request)
    if request.transport is not None:
        request.transport.set_write_buffer_limits(high=_MAX_KEPT_BYTES)
    stream = EventStream(response, request, write_timeout_s=write_timeout_s)
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
