"""A real HTTP server that plays an OpenAI server, byte by byte as a test wants it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from tests.web_server import served

HOLD = b"(hold)"
"""In a script: keep the connection open until the client leaves."""


@dataclass
class Play:
    """The server's next answers, and the requests that it got; written by the test, read by the server's thread."""

    script: list[bytes] = field(default_factory=list)
    status: int = 200
    models: Any = field(default_factory=lambda: {"data": [{"id": "all-minilm-l6-v2"}, {"id": "chatty"}]})
    health: dict[str, object] = field(default_factory=lambda: {"status": "ok"})
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    client_left: threading.Event = field(default_factory=threading.Event)
    base_url: str = ""


@contextlib.asynccontextmanager
async def _playing(play: Play) -> AsyncIterator[web.Application]:
    async def models(request: web.Request) -> web.Response:
        play.headers.append(dict(request.headers))
        return web.json_response(play.models)

    async def health(_request: web.Request) -> web.Response:
        return web.json_response(play.health)

    async def chat(request: web.Request) -> web.StreamResponse:
        play.requests.append(await request.json())
        play.headers.append(dict(request.headers))
        if play.status != 200:
            return web.Response(status=play.status, body=b"".join(play.script), content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for piece in play.script:
                if piece == HOLD:
                    await asyncio.Event().wait()
                await response.write(piece)
        except asyncio.CancelledError:
            play.client_left.set()
            raise
        return response

    app = web.Application()
    app.add_routes([web.get("/v1/models", models), web.get("/health", health), web.post("/v1/chat/completions", chat)])
    yield app


@pytest.fixture
def play() -> Iterator[Play]:
    """A running server and its script."""
    playing = Play()
    with served(lambda: _playing(playing), name="play") as root_url:
        playing.base_url = f"{root_url}/v1"
        yield playing
