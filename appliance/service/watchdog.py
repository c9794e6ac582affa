"""The watchdog: tells the service manager that the appliance makes progress, and falls silent when it does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from appliance.background import Lifetime, run_in_background
from appliance.host.sdnotify import notify

_LONGEST_STEP_S = 900.0
_SIGN_OF_WORK_S = 0.005


class WatchedThread(Protocol):
    """The thread of a model."""

    async def ping(self) -> None:
        """Return when the thread answers: at once if it is idle, else between two pieces of work."""

    def processor_s(self) -> float:
        """Return the processor time in seconds that the thread has used since its start."""


class Watchdog(Lifetime):
    """Sends WATCHDOG=1 while the event loop ticks and the thread of every loaded model lives; owned by the loop.

    A thread lives if it answers, which it does at once or between two steps. Within a step it lives while it uses the
    processor: a small board reads a long text for minutes. One that sleeps in a step hangs, and so does one whose step
    takes longer than `longest_step_s`.
    """

    def __init__(
        self,
        threads: Callable[[], Sequence[WatchedThread]],
        *,
        interval_s: float,
        send: Callable[[str], object] = notify,
        look_again_s: float = 0.5,
        longest_step_s: float = _LONGEST_STEP_S,
    ) -> None:
        """`threads` returns those of the models that are loaded now; the watchdog does not wait for others."""
        self._threads = threads
        self._interval_s = interval_s
        self._send = send
        self._look_again_s = look_again_s
        self._longest_step_s = longest_step_s
        self._watches: dict[WatchedThread, _Watch] = {}

    async def _live(self) -> AsyncIterator[None]:
        try:
            async with run_in_background(self._run()):
                yield
        finally:
            self._forget_all_but([])

    async def _run(self) -> None:
        while True:
            threads = self._threads()
            self._forget_all_but(threads)
            await asyncio.gather(*map(self._lives, threads))
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._interval_s)

    async def _lives(self, thread: WatchedThread) -> None:
        """Return once a thread has shown a sign of life, or is no longer loaded."""
        watch = self._watches.setdefault(thread, _Watch(thread))
        ping = watch.ask()
        while thread in self._threads():
            if (await asyncio.wait([ping], timeout=self._look_again_s))[0]:
                watch.answered()
                return
            if watch.works(self._longest_step_s):
                return

    def _forget_all_but(self, threads: Sequence[WatchedThread]) -> None:
        for thread in [thread for thread in self._watches if thread not in threads]:
            self._watches.pop(thread).end()


class _Watch:
    """A thread's unanswered ping, and the processor time that it had used at the last look."""

    def __init__(self, thread: WatchedThread) -> None:
        self._thread = thread
        self._ping: asyncio.Future[None] | None = None
        self._asked_s = 0.0
        self._used_s = 0.0

    def ask(self) -> asyncio.Future[None]:
        """Return the ping that is not answered yet, or a new one."""
        if self._ping is None:
            self._ping = asyncio.ensure_future(self._thread.ping())
            self._asked_s = time.monotonic()
            self._used_s = self._thread.processor_s()
        return self._ping

    def answered(self) -> None:
        """Note that the ping was answered."""
        self._ping = None

    def works(self, longest_step_s: float) -> bool:
        """Return True if the thread has computed since the last look, and not for too long."""
        used_s, before_s = self._thread.processor_s(), self._used_s
        self._used_s = used_s
        return used_s - before_s >= _SIGN_OF_WORK_S and time.monotonic() - self._asked_s <= longest_step_s

    def end(self) -> None:
        """Wait for no answer any more."""
        if self._ping is not None:
            self._ping.cancel()
