"""A model that reads texts in a thread of its own: waiting requests share rounds, and long ones take turns.

A request's texts are computed in rounds. Each round holds texts of every request that waits, so that a request for a
thousand texts does not hold up one for a single text. No row depends on the rest of its round.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence, Sized
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from appliance.engine.types import EngineStats
from appliance.engine.worker import Worker
from appliance.errors import LanternError, OverloadedError, UnavailableError

_LONGEST_ROUND, _SHORTEST_ROUND = 8192, 512  # tokens
_PATIENCE_S = 2.0

Rows = NDArray[np.float32]
Item = TypeVar("Item", bound=Sized)


class _Job(Generic[Item]):
    """One request; owned by the model's thread once it is queued, but for `result`. Others may read `is_begun`."""

    def __init__(self, items: Sequence[Item], result: asyncio.Future[Rows]) -> None:
        self.items = items
        self.result = result
        self.is_begun = False
        self.waiting = sorted(range(len(items)), key=lambda i: (len(items[i]), -i))  # the longest at the end
        self.rows: Rows | None = None

    def keep(self, indices: Sequence[int], rows: Rows) -> None:
        """Put the rows of a round in their places."""
        if self.rows is None:
            self.rows = np.empty((len(self.items), *rows.shape[1:]), np.float32)
        self.rows[list(indices)] = rows


class AsyncTextModel(Worker, Generic[Item]):
    """A function from texts to rows in a thread of its own. Its public methods are called on the event loop."""

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Rows],
        *,
        name: str,
        max_waiting: int = 64,
        max_items_per_round: int = 64,
        on_failure: Callable[[BaseException], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Bound the requests by `max_waiting`, and the texts that run together by `max_items_per_round`.

        A round has as many tokens as this board computes in two seconds, so that no request waits longer for its turn.
        """
        super().__init__(f"texts-{name}", on_failure)
        self._compute = compute
        self._max_waiting = max_waiting
        self._max_items = max_items_per_round
        self._clock = clock
        self._max_tokens = _LONGEST_ROUND  # belongs to the thread
        self._jobs: set[_Job[Item]] = set()  # belongs to the event loop
        self._queue: list[_Job[Item]] = []  # belongs to the thread

    async def submit(self, items: Sequence[Item], *, max_wait_s: float | None = None) -> Rows:
        """Return a row for each item, in order; cancelling leaves out the rounds that were not begun.

        Raises:
            OverloadedError: the queue is full.
            UnavailableError: the model does not run (any more), or did not begin within `max_wait_s`.
            ModelError: the model failed.
        """
        self._check_accepts()
        if len(self._jobs) >= self._max_waiting:
            raise OverloadedError(f"{len(self._jobs)} requests for this model are waiting already; try again later")
        job = _Job(items, asyncio.get_running_loop().create_future())
        self._jobs.add(job)
        try:
            self.tell(partial(self._queue.append, job))
            if max_wait_s is not None:
                await asyncio.wait([job.result], timeout=max_wait_s)
                if not job.result.done() and not job.is_begun:
                    raise UnavailableError(f"The server is busy: the request waited {max_wait_s:g} s. Try again later.")
            return await job.result
        finally:
            job.result.cancel()
            self._jobs.discard(job)

    def limit_slots(self, num_resting: int) -> None:
        """Change nothing: texts have no slots."""

    def stats(self) -> EngineStats | None:
        """Return None: texts have no engine."""
        return None

    @property
    def _has_work(self) -> bool:
        return bool(self._queue)

    def _step(self) -> None:
        """Run a round, and return the rows of the jobs that it completed."""
        queue = self._queue
        queue[:] = [job for job in queue if not job.result.cancelled()]
        self._run_round(queue)
        for job in [job for job in queue if not job.waiting]:
            job.result.get_loop().call_soon_threadsafe(_resolve, job)
            queue.remove(job)
        queue[:] = queue[1:] + queue[:1]  # another job is first if a round has no room for all

    def _run_round(self, jobs: list[_Job[Item]]) -> None:
        """Compute the next items of every job."""
        chosen = choose([job.waiting for job in jobs], [job.items for job in jobs], self._max_items, self._max_tokens)
        if not chosen:
            return
        for at in {at for at, _ in chosen}:
            jobs[at].is_begun = True
        items = [jobs[at].items[index] for at, index in chosen]
        begin_s = self._clock()
        rows = self._compute(items)
        self._round_took(sum(map(len, items)), self._clock() - begin_s)
        for at, job in enumerate(jobs):
            places = [place for place, (owner, _) in enumerate(chosen) if owner == at]
            if places:
                job.keep([chosen[place][1] for place in places], rows[places])

    def _round_took(self, num_tokens: int, seconds: float) -> None:
        if num_tokens >= _SHORTEST_ROUND // 4 and seconds > 0.0:
            fitting = int(_PATIENCE_S * num_tokens / seconds)
            self._max_tokens = min(max(fitting, _SHORTEST_ROUND), _LONGEST_ROUND)

    def _abort(self, error: LanternError) -> None:
        for job in self._jobs:
            if not job.result.done():
                job.result.set_exception(error)


def choose(
    waiting: Sequence[list[int]],
    items: Sequence[Sequence[Sized]],
    max_items: int,
    max_tokens: int = _LONGEST_ROUND,
) -> list[tuple[int, int]]:
    """Take items of one round from the ends of the lists: the longest of each job in turn, at least one in all."""
    chosen: list[tuple[int, int]] = []
    num_tokens = 0
    owners = [at for at, indices in enumerate(waiting) if indices]
    while owners and len(chosen) < max_items:
        for at in owners:
            length = len(items[at][waiting[at][-1]])
            if chosen and (num_tokens + length > max_tokens or len(chosen) >= max_items):
                return chosen
            chosen.append((at, waiting[at].pop()))
            num_tokens += length
        owners = [at for at in owners if waiting[at]]
    return chosen


def _resolve(job: _Job[Item]) -> None:
    if not job.result.done():
        job.result.set_result(np.empty(0, np.float32) if job.rows is None else job.rows)
