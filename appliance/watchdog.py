"""Tells the service manager that the appliance makes progress, and falls silent when it does not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable

from appliance.engine.loop import AsyncEngine
from appliance.host.sdnotify import notify


class Watchdog:
    """Sends WATCHDOG=1 while the event loop ticks and every engine thread comes around; owned by the loop.

    An engine answers between two steps, or at once when it is idle. One that hangs in a step, or has ended, never does.
    """

    def __init__(
        self,
        engines: Callable[[], Iterable[AsyncEngine]],
        *,
        interval_s: float,
        send: Callable[[str], object] = notify,
    ) -> None:
        self._engines = engines
        self._interval_s = interval_s
        self._send = send

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send until the block is left."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            await asyncio.gather(*(engine.ping() for engine in self._engines()))
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._interval_s)
