"""Responses in the background: made whether their client stays or not, followed by any number of clients."""

from __future__ import annotations

import asyncio
import json
import logging
from functools import partial

from aiohttp import web

from appliance.errors import InvalidRequestError, LanternError, UnavailableError
from appliance.server.context import CONTEXT, ServerContext
from appliance.server.http.errors import InternalError
from appliance.server.http.log import log_background
from appliance.server.http.record import KEY_ID, REQUEST_ID, RequestRecord
from appliance.server.http.sse import encoded_event, event_stream
from appliance.server.state.background import Running
from appliance.server.state.events import EventLog
from appliance.server.state.responses import StoredResponse
from appliance.server.v1.generation import Origin
from appliance.server.v1.responses.events import Event, obfuscated
from appliance.server.v1.responses.plan import to_json
from appliance.server.v1.responses.response import Response, ResponseFailure
from appliance.server.v1.responses.run import Run
from appliance.server.v1.responses.start import Started, started
from appliance.server.v1.responses.stream import send_output, send_places, state_event
from appliance.server.v1.responses.wire import ResponseRequest

_LOGGER = logging.getLogger(__name__)

_MAX_WAIT_S = 600.0  # for a slot; nobody holds a connection meanwhile


async def answer_in_background(request: web.Request, wire: ResponseRequest) -> web.StreamResponse:
    """Start a response and answer at once, or with its events as they come.

    Raises:
        LanternError: a refusal, as of any response.
    """
    context = request.app[CONTEXT]
    if not (wire.store and context.responses.is_on):
        raise InvalidRequestError(
            "Invalid 'background': responses in the background are stored, and this one is not to be"
            + ("." if not wire.store else ": storing is switched off here (responses.store)."),
            param="background",
            code="invalid_value",
        )
    key_id = request.get(KEY_ID, "")
    begun: asyncio.Future[tuple[Running, Started]] = asyncio.get_running_loop().create_future()
    record = RequestRecord(context.metrics, key_id=key_id)
    origin = Origin(request[REQUEST_ID], key_id, record, max(_MAX_WAIT_S, context.max_wait_s))
    task = context.background.start(key_id, partial(_make, context, origin, wire, begun))
    try:
        running, start = await begun
    except asyncio.CancelledError:  # the client left before it could know of the response
        task.cancel()
        raise
    running.task = task
    if not wire.stream:
        return web.json_response(start.run.answer.begun("queued"), headers=start.headers)
    obfuscates = wire.stream_options is not None and wire.stream_options.include_obfuscation
    return await follow(request, running.log, 0, obfuscates=obfuscates, headers=dict(start.headers))


async def follow(
    request: web.Request, log: EventLog, start: int, *, obfuscates: bool, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    """Send the events from a number on, those that are there at once, the others as they come."""
    context = request.app[CONTEXT]
    async with event_stream(
        request,
        headers={"x-request-id": request[REQUEST_ID], **(headers or {})},
        ping_interval_s=context.ping_interval_s,
        write_timeout_s=context.write_timeout_s,
    ) as events:
        async for made in log.follow(start):
            await events.send_encoded(map(_padded, made) if obfuscates else made)
        await events.done()
    return events.response


def interrupted(entry: StoredResponse) -> StoredResponse:
    """Return the last state of a response that was being made when the server ended."""
    response: Response = json.loads(entry.response)
    response["status"] = "failed"
    error: ResponseFailure = {
        "code": "server_error",
        "message": "The server was restarted while this response was made; send the request again.",
        "type": UnavailableError.type,
        "param": None,
    }
    response["error"] = error
    return StoredResponse(
        entry.id, entry.previous_id, to_json(response), entry.input, entry.output, entry.item_ids, is_open=False
    )


async def _make(
    context: ServerContext,
    origin: Origin,
    wire: ResponseRequest,
    begun: asyncio.Future[tuple[Running, Started]],
) -> None:
    """Make one response, in a task of its own; what goes wrong before it is queued is raised in its handler."""
    outcome = "failed"
    try:
        async with started(context, origin, wire) as start:
            run = start.run
            if not await run.open():
                raise UnavailableError("The response cannot be stored now, and background responses have to be.")
            if begun.cancelled():
                run.forget()
                return
            running = Running(origin.key_id)
            running.snapshot = partial(_snapshot, run)
            context.background.add(run.answer.id, running)
            begun.set_result((running, start))
            try:
                outcome = await _run(context, origin, run, running)
            finally:
                context.background.end(run.answer.id)
    except (LanternError, asyncio.CancelledError) as err:
        if not begun.done():
            begun.set_exception(err) if isinstance(err, LanternError) else begun.cancel()
    except Exception as err:
        _LOGGER.exception("%s failed in the background", origin.request_id)
        if not begun.done():
            begun.set_exception(err)
    finally:
        log_background(origin.request_id, origin.record, outcome)


async def _run(context: ServerContext, origin: Origin, run: Run, running: Running) -> str:
    """Make the events and the end of a response; return its status."""
    sink = _LogSink(running.log)
    failure: LanternError | None = None
    is_cancelled = False
    try:
        queued = run.answer.begun("queued")
        await sink.send(state_event("response.created", queued))
        await sink.send(state_event("response.queued", queued))
        await run.generation.begin(_MAX_WAIT_S)
        if run.generation.tells_progress:
            await send_places(run, sink)
        running.snapshot = partial(_snapshot, run, is_queued=False)
        failure = await send_output(run, sink, origin.request_id)
    except asyncio.CancelledError:
        is_cancelled = running.is_cancelled
        failure = None if is_cancelled else UnavailableError("The server was stopped while this response was made.")
    except LanternError as err:
        failure = err
    except Exception:
        _LOGGER.exception("%s failed in the background", origin.request_id)
        failure = InternalError.of(origin.request_id)
    if is_cancelled:
        for event in run.output.finish(is_cut=True):
            await sink.send(event)
    response = run.answer.failed(failure, run.output.items) if failure is not None else None
    response = response or run.end("cancelled" if is_cancelled else None)
    if not running.is_deleted:
        await run.keep(response)
    running.snapshot = (lambda: None) if response["store"] else partial(to_json, response)
    kind = "incomplete" if response["status"] == "cancelled" else response["status"]
    await sink.send(state_event(f"response.{kind}", response))
    return response["status"]


def _snapshot(run: Run, *, is_queued: bool = True) -> bytes:
    return to_json(run.answer.begun("queued" if is_queued else "in_progress", run.output.items))


class _LogSink:
    """The events of one response, numbered and encoded once for all that follow."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def send(self, event: Event) -> None:
        """See EventSink."""
        event["sequence_number"] = self._log.end
        self._log.append(encoded_event(event["type"], event))


def _padded(event: bytes) -> bytes:
    """Return an encoded event with random padding."""
    _, _, data = event.partition(b"data: ")
    padded = obfuscated(json.loads(data))
    return encoded_event(padded["type"], padded)
