"""A real HTTP server that plays an OpenAI server, byte by byte as a test wants it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

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


async def _run(play: Play, ready: threading.Event, stop: asyncio.Event) -> None:
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
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    play.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    ready.set()
    await stop.wait()
    await runner.cleanup()


@pytest.fixture
def play() -> Iterator[Play]:
    """A running server and its script."""
    playing, ready, stop = Play(), threading.Event(), asyncio.Event()
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=runner.run, args=(_run(playing, ready, stop),))
        thread.start()
        assert ready.wait(10)
        yield playing
        loop.call_soon_threadsafe(stop.set)
        thread.join()
