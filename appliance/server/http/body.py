"""JSON bodies of requests, read into the model that the route declares."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from aiohttp import web

from appliance.server.http.json_body import parse_json
from appliance.server.http.routing import route_of
from appliance.server.http.wire import Wire, parse_as

M = TypeVar("M", bound=Wire)

TEXT_THREADS = web.AppKey("text_threads", ThreadPoolExecutor)

_SMALL_BYTES = 1 << 14


async def read_as(request: web.Request, model: type[M]) -> M:
    """Read and validate the body; a large one is parsed off the event loop.

    Raises:
        InvalidRequestError: not JSON, or a field that is not valid.
    """
    route = route_of(request)
    assert route is not None
    assert route.request is model, f"{route.method} {route.path} declares {route.request}, and reads {model}"
    body = await request.read()
    if len(body) <= _SMALL_BYTES:
        return parse_as(model, parse_json(body))
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(request.app[TEXT_THREADS], lambda: parse_as(model, parse_json(body)))
