"""The events of a response in their order, numbered; one last event, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from aiohttp import web

from appliance.background import run_in_background
from appliance.errors import LanternError
from appliance.server.context import CONTEXT
from appliance.server.http.errors import InternalError
from appliance.server.http.record import REQUEST_ID
from appliance.server.http.sse import EventStream, event_stream
from appliance.server.v1.response import progress_of
from appliance.server.v1.responses.events import Event, obfuscated
from appliance.server.v1.responses.response import Response
from appliance.server.v1.responses.run import Run

_LOGGER = logging.getLogger(__name__)

_REMINDER_S = 60.0  # Codex gives up after 300 s without an event; comments do not count


class EventSink(Protocol):
    """The receiver of numbered events."""

    async def send(self, event: Event) -> None:
        """Give an event its number and pass it on."""


async def stream_response(
    request: web.Request, run: Run, headers: Mapping[str, str], *, obfuscates: bool
) -> web.StreamResponse:
    """Send the events of a response; its end is stored before it is sent, since clients chain at once.

    Raises:
        UnavailableError: there was no slot before the stream had to begin.
    """
    context = request.app[CONTEXT]
    await run.generation.begin(context.ping_interval_s)
    async with event_stream(
        request,
        headers={"x-request-id": request[REQUEST_ID], **headers},
        ping_interval_s=context.ping_interval_s,
        write_timeout_s=context.write_timeout_s,
    ) as events:
        sink = _NumberedStream(events, obfuscates=obfuscates)
        await sink.send(state_event("response.created", run.answer.begun()))
        failure = await send_output(run, sink, request[REQUEST_ID])
        if failure is not None:
            await sink.send(state_event("response.failed", run.answer.failed(failure, run.output.items)))
        else:
            await _send_end(sink, run)
        await events.done()
    return events.response


async def send_output(
    run: Run, sink: EventSink, request_id: str, *, reminder_s: float = _REMINDER_S
) -> LanternError | None:
    """Send the events of the output as it comes; return why it could not be ended."""
    await sink.send(state_event("response.in_progress", run.answer.begun()))
    async with _reminding(sink, run, reminder_s):
        if run.generation.tells_progress:
            try:
                await send_places(run, sink)
                await _send_readings(run, sink)
            except LanternError as err:
                return err
        pieces = run.generation.pieces()
        while True:
            try:
                _, piece = await anext(pieces)
                made = list(run.read(piece))
            except StopAsyncIteration:
                return None
            except LanternError as err:
                return err
            except Exception:
                _LOGGER.exception("%s failed in its stream", request_id)
                return InternalError.of(request_id)
            for event in made:
                await sink.send(event)


async def send_places(run: Run, sink: EventSink) -> None:
    """Send the places of a response in the queue until it has its slot; none unless it tells its progress."""
    async for place in run.generation.places():
        await sink.send({"type": "response.queue_position", "queue_position": place})


async def _send_readings(run: Run, sink: EventSink) -> None:
    async for reading in run.generation.readings():
        await sink.send({"type": "response.prompt_progress", "prompt_progress": progress_of(reading)})


def state_event(kind: str, response: Response) -> dict[str, Any]:
    """Return an event that carries the response."""
    return {"type": kind, "response": response}


async def _send_end(sink: EventSink, run: Run) -> None:
    response = run.end()
    try:
        await run.keep(response)
        await sink.send(state_event(f"response.{response['status']}", response))
    except BaseException:
        run.forget()
        raise


@contextlib.asynccontextmanager
async def _reminding(sink: EventSink, run: Run, interval_s: float) -> AsyncIterator[None]:
    """Tell again that the response is in progress while nothing of it is there.

    Never after an item was added: openai-node takes the output of such an event as its new state.
    """

    async def remind() -> None:
        while True:
            await asyncio.sleep(interval_s)
            if run.output.has_begun:
                return
            await sink.send(state_event("response.in_progress", run.answer.begun()))

    async with run_in_background(remind()):
        yield


class _NumberedStream:
    """The events of one response, numbered as they are sent."""

    def __init__(self, events: EventStream, *, obfuscates: bool) -> None:
        self._events = events
        self._obfuscates = obfuscates
        self._number = 0

    async def send(self, event: Event) -> None:
        """See EventSink."""
        event["sequence_number"] = self._number
        self._number += 1
        await self._events.send_named(event["type"], obfuscated(event) if self._obfuscates else event)
