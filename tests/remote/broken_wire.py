"""A connection that breaks again and again, for uploads that have to be resumed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp


class BrokenWire:
    """A TCP relay that ends each connection after so many bytes from the client; `port_of` is asked every time."""

    def __init__(self, port_of: Callable[[], int], *, bytes_each: int, before_break: Callable[[int], Awaitable[None]]):
        self._port_of = port_of
        self._bytes_each = bytes_each
        self._before_break = before_break
        self.num_breaks = 0
        self.num_bytes = 0
        self._relays: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._relays.add(asyncio.create_task(self._relay(reader, writer)))

    async def close(self) -> None:
        for relay in self._relays:
            relay.cancel()
        await asyncio.wait(self._relays)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(_abort, writer)
            try:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port_of())
            except OSError:
                return
            stack.push_async_callback(_abort, far_writer)
            back = asyncio.create_task(_copy(far_reader, writer))
            stack.callback(back.cancel)
            left = self._bytes_each
            with contextlib.suppress(OSError):
                while left > 0 and (data := await reader.read(min(left, 65536))):
                    far_writer.write(data)
                    await far_writer.drain()
                    left -= len(data)
                    self.num_bytes += len(data)
            if left <= 0:
                self.num_breaks += 1
                await self._before_break(self.num_breaks)


async def _abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.CancelledError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


async def nothing(_: int) -> None:
    """Break without more ado."""


@contextlib.asynccontextmanager
async def session_over(wire: BrokenWire, key: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session whose connections break."""
    relay = await asyncio.start_server(wire.accept, "127.0.0.1", 0)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(wire.close)
        await stack.enter_async_context(relay)
        port = relay.sockets[0].getsockname()[1]
        headers = {"Authorization": f"Bearer {key}"}
        yield await stack.enter_async_context(aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers))
