"""The chunks of a streamed answer as events: of all choices as they come, the usage where it was asked for, the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from appliance.server.context import CONTEXT, REQUEST_ID
from appliance.server.merge import merged
from appliance.server.sse import event_stream

Chunk = dict[str, Any]


async def stream_chunks(
    request: web.Request, choices: list[AsyncIterator[Chunk]], usage: Callable[[], Chunk] | None
) -> web.StreamResponse:
    """Send them; `usage` makes the last chunk, and all before it then say that theirs is null."""
    context = request.app[CONTEXT]
    async with event_stream(
        request,
        headers={"x-request-id": request[REQUEST_ID]},
        ping_interval_s=context.ping_interval_s,
        write_timeout_s=context.write_timeout_s,
    ) as events:
        async for chunk in merged(choices):
            await events.send({**chunk, "usage": None} if usage is not None else chunk)
        if usage is not None:
            await events.send(usage())
        await events.done()
    return events.response
