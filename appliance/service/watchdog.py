"""The watchdog: tells the service manager that the appliance makes progress, and falls silent when it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from appliance.background import Lifetime, run_in_background
from appliance.host.sdnotify import notify


class WatchedThread(Protocol):
    """The thread of a model."""

    async def ping(self) -> None:
        """Return when the thread answers: at once if it is idle, else between two pieces of work."""


class Watchdog(Lifetime):
    """Sends WATCHDOG=1 while the event loop ticks and the thread of every loaded model answers; owned by the loop.

    A thread answers between two steps, or at once if it is idle. One that hangs in a step, or has ended, never does.
    """

    def __init__(
        self,
        threads: Callable[[], Sequence[WatchedThread]],
        *,
        interval_s: float,
        send: Callable[[str], object] = notify,
        look_again_s: float = 0.5,
    ) -> None:
        """`threads` returns those of the models that are loaded now; the watchdog does not wait for others."""
        self._threads = threads
        self._interval_s = interval_s
        self._send = send
        self._look_again_s = look_again_s

    async def _live(self) -> AsyncIterator[None]:
        async with run_in_background(self._run()):
            yield

    async def _run(self) -> None:
        while True:
            await asyncio.gather(*map(self._answers, self._threads()))
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._interval_s)

    async def _answers(self, thread: WatchedThread) -> None:
        ping = asyncio.ensure_future(thread.ping())
        try:
            while thread in self._threads():
                if (await asyncio.wait([ping], timeout=self._look_again_s))[0]:
                    return
        finally:
            ping.cancel()
