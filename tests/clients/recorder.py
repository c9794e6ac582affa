"""A proxy between a client and the server that keeps every answer of /v1/responses, byte for byte as it was read."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from tests.web_server import served

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer; `is_whole` if the client read the answer to its end."""

    method: str
    path: str
    request: bytes
    status: int
    content_type: str
    answer: bytes
    is_whole: bool


@dataclass(slots=True)
class Recording:
    """The proxy's own address, and the exchanges so far; appended in the proxy's thread."""

    base_url: str = ""
    exchanges: list[Exchange] = field(default_factory=list)


@contextlib.contextmanager
def recording(root_url: str) -> Iterator[Recording]:
    """Run a proxy for the server at `root_url` until the block is left."""
    recorded = Recording()
    with served(lambda: _proxy(root_url, recorded), name="recorder") as own_url:
        recorded.base_url = f"{own_url}/v1"
        yield recorded


@contextlib.asynccontextmanager
async def _proxy(root_url: str, recorded: Recording) -> AsyncIterator[web.Application]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            return await _forward(request, session, root_url, recorded)

        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", forward)
        yield app


async def _forward(
    request: web.Request, session: aiohttp.ClientSession, root_url: str, recorded: Recording
) -> web.StreamResponse:
    body = await request.read()
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
    answer, is_whole, status, kind = bytearray(), False, 0, ""
    try:
        async with session.request(
            request.method, f"{root_url}{request.raw_path}", data=body or None, headers=headers
        ) as upstream:
            status, kind = upstream.status, upstream.content_type
            kept = {name: value for name, value in upstream.headers.items() if name.lower() not in _HOP_BY_HOP}
            response = web.StreamResponse(status=upstream.status, headers=kept)
            await response.prepare(request)
            async for data in upstream.content.iter_any():
                answer += data
                await response.write(data)
            is_whole = True
            return response
    finally:
        if request.path.startswith("/v1/responses"):
            exchange = Exchange(request.method, request.path, body, status, kind, bytes(answer), is_whole)
            recorded.exchanges.append(exchange)
