"""Reading a request's body into a wire model."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from aiohttp import web

from appliance.server.context import CONTEXT
from appliance.server.json_body import parse_json
from appliance.server.parse import Wire, parse_as

M = TypeVar("M", bound=Wire)

_SMALL_BYTES = 1 << 14


async def read_as(request: web.Request, model: type[M]) -> M:
    """Read and validate; what is large is parsed off the event loop.

    Raises:
        InvalidRequestError: not JSON, or a field that is not valid.
    """
    body = await request.read()
    if len(body) <= _SMALL_BYTES:
        return parse_as(model, parse_json(body))
    loop = asyncio.get_running_loop()
    threads = request.app[CONTEXT].text_threads
    return await loop.run_in_executor(threads, lambda: parse_as(model, parse_json(body)))
