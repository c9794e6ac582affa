"""A small OpenAI-compatible server on a real port, which remembers what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiohttp import web


@dataclass(slots=True)
class Peer:
    """`refused` fields are answered with 400, as strict servers do; tokens are counted only where it `tells_usage`."""

    refused: frozenset[str] = frozenset()
    tells_usage: bool = True
    embeds: bool = True
    key: str | None = None
    models: tuple[str, ...] = ("the-model",)
    fails_midway: bool = False
    log: list[str] | None = None
    name: str = "peer"
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)

    @property
    def chats(self) -> list[dict[str, Any]]:
        return [body for body in self.asked if "messages" in body]


@contextlib.asynccontextmanager
async def running(peer: Peer) -> AsyncIterator[Peer]:
    app = web.Application()
    app.router.add_get("/v1/models", partial(_models, peer))
    app.router.add_post("/v1/chat/completions", partial(_chat, peer))
    app.router.add_post("/v1/embeddings", partial(_embed, peer))
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        peer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield peer
    finally:
        await runner.cleanup()


async def _models(peer: Peer, request: web.Request) -> web.Response:
    if peer.key is not None and request.headers.get("Authorization") != f"Bearer {peer.key}":
        return _error(401, "who are you?")
    return web.json_response({"object": "list", "data": [{"id": model} for model in peer.models]})


async def _chat(peer: Peer, request: web.Request) -> web.StreamResponse:
    body = await request.json()
    peer.asked.append(body)
    if peer.log is not None:
        peer.log.append(peer.name)
    for name in peer.refused & body.keys():
        return _error(400, f"unknown field {name}")
    if body["model"] not in peer.models:
        return _error(404, "no such model")
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await _send(response, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]})
    for i in range(body["max_tokens"]):
        await _send(response, {"choices": [{"index": 0, "delta": {"content": f"word{i} "}}]})
        await asyncio.sleep(0)
    if peer.fails_midway:
        await _send(response, {"error": {"message": "the model fell over"}})
        return response
    await _send(response, {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
    if peer.tells_usage and "stream_options" in body:
        num_prompt = sum(len(m["content"].split()) for m in body["messages"]) + 10
        usage = {"prompt_tokens": num_prompt, "completion_tokens": body["max_tokens"]}
        await _send(response, {"choices": [], "usage": usage})
    await response.write(b"data: [DONE]\n\n")
    return response


async def _embed(peer: Peer, request: web.Request) -> web.Response:
    body = await request.json()
    peer.asked.append(body)
    if not peer.embeds:
        return _error(501, "this server does not support embeddings")
    data = [{"index": i, "embedding": [1.0]} for i in range(len(body["input"]))]
    return web.json_response({"object": "list", "data": data})


async def _send(response: web.StreamResponse, chunk: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)
