"""An application of aiohttp on a thread, for tests whose other side blocks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager

from aiohttp import web

_START_TIMEOUT_S = 60.0


@contextlib.contextmanager
def served(opened: Callable[[], AbstractAsyncContextManager[web.Application]], *, name: str) -> Iterator[str]:
    """Serve on a free port of loopback until the block is left, in a loop of its own; yield the root URL."""
    address, over = Future[str](), asyncio.Event()

    async def serve() -> None:
        async with opened() as app:
            runner = web.AppRunner(app, handler_cancellation=True)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            address.set_result(f"http://127.0.0.1:{runner.addresses[0][1]}")
            await over.wait()
            await runner.cleanup()

    with asyncio.Runner() as loop_runner:
        loop = loop_runner.get_loop()
        thread = threading.Thread(target=loop_runner.run, args=(serve(),), name=name)
        thread.start()
        try:
            yield address.result(_START_TIMEOUT_S)
        finally:
            loop.call_soon_threadsafe(over.set)
            thread.join()
