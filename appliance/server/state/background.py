"""Responses in the background: their tasks, which no client ends by leaving, and their events.

Owned by the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from appliance.errors import OverloadedError
from appliance.server.state.events import EventLog

_MAX_RUNNING, _MAX_RUNNING_OF_KEY = 16, 8
_MAX_KEPT_BYTES = 8 << 20
_MAX_AGE_S = 600.0


@dataclass(slots=True)
class Running:
    """One response. `snapshot` returns it as JSON as it is now; `is_cancelled`: its client asked for its end."""

    key_id: str
    log: EventLog = field(default_factory=EventLog)
    snapshot: Callable[[], bytes | None] = lambda: None
    is_cancelled: bool = False
    is_deleted: bool = False
    ended_s: float | None = None
    task: asyncio.Task[None] | None = None


class Background:
    """The responses of all keys that run, and the events of those that have ended not long ago."""

    def __init__(self, *, max_kept_bytes: int = _MAX_KEPT_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        """Keep at most these bytes of events of responses that have ended; one key gets half."""
        self._max_kept_bytes = max_kept_bytes
        self._clock = clock
        self._found: dict[str, Running] = {}
        self._tasks: dict[asyncio.Task[None], str] = {}  # with the key's id

    def start(self, key_id: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Start the task of a response.

        Raises:
            OverloadedError: enough responses run in the background, of this key or of all.
        """
        num_of_key = sum(key == key_id for key in self._tasks.values())
        if num_of_key >= _MAX_RUNNING_OF_KEY or len(self._tasks) >= _MAX_RUNNING:
            raise OverloadedError(
                f"{num_of_key} responses of this key and {len(self._tasks)} of all are made in the background already; "
                "try again when one of them has ended."
            )
        task = asyncio.create_task(work())
        self._tasks[task] = key_id
        task.add_done_callback(lambda done: self._tasks.pop(done))
        return task

    def add(self, response_id: str, running: Running) -> None:
        """Let a response be found."""
        self._found[response_id] = running

    def find(self, key_id: str, response_id: str) -> Running | None:
        """Return a response of this key, if its events are still kept."""
        self._forget_old()
        running = self._found.get(response_id)
        return running if running is not None and running.key_id == key_id else None

    def end(self, response_id: str) -> None:
        """Close the events of a response, which are kept for a while."""
        if (running := self._found.get(response_id)) is not None:
            running.log.close()
            running.ended_s = self._clock()
            self._forget_old()

    async def cancel(self, running: Running) -> None:
        """End a response that runs, and wait for its end."""
        running.is_cancelled = True
        if running.task is not None and not running.task.done():
            running.task.cancel()
            await asyncio.wait([running.task])

    async def delete(self, key_id: str, response_id: str) -> None:
        """Forget the events of a response, which ends if it runs."""
        if (running := self.find(key_id, response_id)) is not None:
            running.is_deleted = True
            await self.cancel(running)
            self._found.pop(response_id, None)

    async def stop(self) -> None:
        """End all that run; the store remembers them as failed."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @property
    def size_bytes(self) -> int:
        """Return the memory of all events."""
        return sum(running.log.size_bytes for running in self._found.values())

    def _forget_old(self) -> None:
        """Forget the events of responses that ended long ago, then of those that ended first, until the rest fits."""
        limit_s = self._clock() - _MAX_AGE_S
        for response_id, _ in [*self._ended()]:
            if self._found[response_id].ended_s is not None and (self._found[response_id].ended_s or 0.0) < limit_s:
                del self._found[response_id]
        sizes: dict[str, int] = {}
        total = 0
        for response_id, running in reversed([*self._ended()]):
            size = running.log.size_bytes
            of_key = sizes.get(running.key_id, 0) + size
            if total + size > self._max_kept_bytes or (running.key_id and of_key > self._max_kept_bytes // 2):
                del self._found[response_id]
                continue
            total, sizes[running.key_id] = total + size, of_key

    def _ended(self) -> Iterator[tuple[str, Running]]:
        """Yield the responses that have ended, the first one first."""
        ended = [(running.ended_s, name, running) for name, running in self._found.items()]
        for _, name, running in sorted((s, n, r) for s, n, r in ended if s is not None):
            yield name, running
