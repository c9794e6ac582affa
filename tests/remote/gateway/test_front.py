"""The port in front of processes that come and go: a client notices none of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from appliance.errors import ConfigError
from appliance.remote.gateway.front import Front


@contextlib.asynccontextmanager
async def process(name: str, may_end: asyncio.Event | None = None) -> AsyncIterator[int]:
    """A server that answers with its name and what it was told, perhaps in two parts; gives its port."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"x-name": name})
        await response.prepare(request)
        told = f"{request.method} {request.path_qs} {request.headers.get('Authorization')} {await request.text()}"
        await response.write(f"{name}: {told}".encode())
        if may_end is not None:
            await may_end.wait()
            await response.write(b" end")
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def test_requests_of_one_connection_go_to_whoever_is_there_at_the_time() -> None:
    async def run() -> list[str]:
        async with (
            Front("127.0.0.1", 0) as front,
            process("one") as one,
            process("two") as two,
            aiohttp.ClientSession(
                f"http://127.0.0.1:{front.port}",
                connector=aiohttp.TCPConnector(limit=1),
                headers={"Authorization": "Bearer x"},
            ) as client,
        ):
            said = []
            for port in (one, two):
                front.route_to(port)
                async with client.post("/v1/chat?a=1", data="body") as response:
                    said.append(f"{response.headers['x-name']} {await response.text()}")
            return said

    assert asyncio.run(run()) == [f"{name} {name}: POST /v1/chat?a=1 Bearer x body" for name in ("one", "two")]


def test_a_process_is_drained_when_its_last_answer_is_out() -> None:
    async def run() -> tuple[bool, str]:
        may_end = asyncio.Event()
        async with (
            Front("127.0.0.1", 0) as front,
            process("old", may_end) as old,
            aiohttp.ClientSession(f"http://127.0.0.1:{front.port}") as client,
        ):
            front.route_to(old)
            async with client.get("/") as response:
                await response.content.readany()
                draining = asyncio.create_task(front.drained(old))
                await asyncio.wait([draining], timeout=0.05)
                was_drained = draining.done()
                may_end.set()
                rest = await response.text()
            await draining
            return was_drained, rest

    assert asyncio.run(run()) == (False, " end")


def test_a_front_without_a_process_says_when_to_come_back() -> None:
    async def run() -> list[int]:
        async with Front("127.0.0.1", 0) as front, aiohttp.ClientSession() as client:
            statuses = []
            for port in (None, 1):
                if port is not None:
                    front.route_to(port)
                async with client.get(f"http://127.0.0.1:{front.port}/") as response:
                    statuses.append(response.status)
            return statuses

    assert asyncio.run(run()) == [503, 503]


def test_a_port_that_is_taken_is_one_clear_sentence() -> None:
    async def run() -> None:
        async with Front("127.0.0.1", 0) as front, Front("127.0.0.1", front.port):
            pass

    with pytest.raises(ConfigError, match="cannot be used"):
        asyncio.run(run())
