"""A streamed answer: the chunks of all choices as they come, the usage if it was asked for, the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

from aiohttp import web

from appliance.server.context import CONTEXT
from appliance.server.http.record import REQUEST_ID
from appliance.server.http.sse import event_stream
from appliance.server.v1.choice import TextPiece
from appliance.server.v1.generation import Generation

Chunk = Mapping[str, object]
ChunkWriter = Callable[[TextPiece], Iterable[Chunk]]
"""Makes the chunks of one choice: of a piece of its text, and of its end with the last piece."""


async def stream_chunks(
    request: web.Request,
    generation: Generation,
    writers: Sequence[ChunkWriter],
    usage_chunk: Callable[[], Chunk],
    *,
    wants_usage: bool,
    before: AsyncIterator[Chunk] | None = None,
) -> web.StreamResponse:
    """Send the chunks that each choice's writer makes; if usage is wanted, all but the last have a `usage` of null.

    `before`: the chunks that come before those of the choices.

    Raises:
        UnavailableError: there was no slot before the stream had to begin.
    """
    context = request.app[CONTEXT]
    await generation.begin(context.ping_interval_s)
    async with event_stream(
        request,
        headers={"x-request-id": request[REQUEST_ID]},
        ping_interval_s=context.ping_interval_s,
        write_timeout_s=context.write_timeout_s,
    ) as events:
        if before is not None:
            async for chunk in before:
                await events.send({**chunk, "usage": None} if wants_usage else chunk)
        async for choice, piece in generation.pieces():
            for chunk in writers[choice.index](piece):
                await events.send({**chunk, "usage": None} if wants_usage else chunk)
        if wants_usage:
            await events.send(usage_chunk())
        await events.done()
    return events.response
