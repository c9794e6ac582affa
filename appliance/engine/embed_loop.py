"""The thread of a model that reads texts, and its asyncio side: what waits goes together, and long requests take turns.

A request's texts are computed in rounds. Each round holds texts of every request that waits, so that a request for a
thousand does not hold up one for a single text. No row depends on what else runs.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence, Sized
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from appliance.engine.embedder import Embedder, Reranker, TokenPair
from appliance.errors import LanternError, ModelError, OverloadedError, UnavailableError

_LOGGER = logging.getLogger(__name__)

_MAX_TOKENS_PER_ROUND = 8192

Rows = NDArray[np.float32]
Item = TypeVar("Item", bound=Sized)


class _Job(Generic[Item]):
    """One request; belongs to the model's thread after it was queued, but for `result`, and `is_begun` is only read."""

    def __init__(self, items: Sequence[Item], result: asyncio.Future[Rows]) -> None:
        self.items = items
        self.result = result
        self.is_begun = False
        self.waiting = sorted(range(len(items)), key=lambda i: (len(items[i]), -i))  # the longest at the end
        self.rows: Rows | None = None

    def keep(self, indices: Sequence[int], rows: Rows) -> None:
        """Put the rows of a round where they belong."""
        if self.rows is None:
            self.rows = np.empty((len(self.items), *rows.shape[1:]), np.float32)
        self.rows[list(indices)] = rows


class _Ping:
    """To be answered when the thread comes around."""

    def __init__(self, answer: asyncio.Future[None]) -> None:
        self.answer = answer


class AsyncTextModel(Generic[Item]):
    """A function from texts to rows in a thread of its own. Every method is called on the event loop."""

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Rows],
        *,
        name: str,
        max_waiting: int = 64,
        max_items_per_round: int = 64,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`max_waiting` bounds requests; `max_items_per_round` how many texts of all of them run together."""
        self._compute = compute
        self._max_waiting = max_waiting
        self._max_items = max_items_per_round
        self._on_failure = on_failure
        self._inbox: queue.SimpleQueue[_Job[Item] | _Ping | None] = queue.SimpleQueue()
        self._num_jobs = 0
        self._accepts = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name=f"texts-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.get_running_loop()
        self._accepts = True
        self._thread.start()

    async def stop(self) -> None:
        """Finish what is queued, then end the thread."""
        self._accepts = False
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    async def ping(self) -> None:
        """Return once the thread came around, idle or between two rounds; never where it hangs or has ended."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._inbox.put(_Ping(answer))
        await answer

    async def submit(self, items: Sequence[Item], *, max_wait_s: float | None = None) -> Rows:
        """A row for each item, in order; cancelling leaves out what has not been begun.

        Raises:
            OverloadedError: the queue is full.
            UnavailableError: the model does not run (any more), or did not begin within `max_wait_s`.
            ModelError: the model failed.
        """
        if not self._accepts or self._loop is None:
            raise UnavailableError("the server is not accepting requests right now; try again in a few seconds")
        if self._num_jobs >= self._max_waiting:
            raise OverloadedError(f"{self._num_jobs} requests for this model are waiting already; try again later")
        job = _Job(items, self._loop.create_future())
        self._num_jobs += 1
        try:
            self._inbox.put(job)
            if max_wait_s is not None:
                await asyncio.wait([job.result], timeout=max_wait_s)
                if not job.result.done() and not job.is_begun:
                    raise UnavailableError(f"The server is busy: the request waited {max_wait_s:g} s. Try again later.")
            return await job.result
        finally:
            job.result.cancel()
            self._num_jobs -= 1

    def _run(self) -> None:
        """The model's thread."""
        loop = self._loop
        assert loop is not None
        jobs: list[_Job[Item]] = []
        ends = False
        while jobs or not ends:
            ends = self._take(jobs, wait=not jobs) or ends
            jobs = [job for job in jobs if not job.result.cancelled()]
            try:
                self._round(jobs)
            except Exception as err:
                _LOGGER.exception("the thread of a model that reads texts ends")
                loop.call_soon_threadsafe(self._fail, jobs, err)
                return
            for job in [job for job in jobs if not job.waiting]:
                loop.call_soon_threadsafe(_resolve, job)
                jobs.remove(job)
            jobs = jobs[1:] + jobs[:1]  # another one is first where a round has no room for all

    def _take(self, jobs: list[_Job[Item]], *, wait: bool) -> bool:
        """Add what has arrived; whether the end was among it."""
        while True:
            try:
                job = self._inbox.get(block=wait)
            except queue.Empty:
                return False
            if job is None:
                return True
            if isinstance(job, _Ping):
                job.answer.get_loop().call_soon_threadsafe(_answer, job.answer)
                continue
            jobs.append(job)
            wait = False

    def _round(self, jobs: list[_Job[Item]]) -> None:
        """Compute the next items of every job."""
        chosen = choose([job.waiting for job in jobs], [job.items for job in jobs], self._max_items)
        if not chosen:
            return
        for at in {at for at, _ in chosen}:
            jobs[at].is_begun = True
        rows = self._compute([jobs[at].items[index] for at, index in chosen])
        for at, job in enumerate(jobs):
            places = [place for place, (owner, _) in enumerate(chosen) if owner == at]
            if places:
                job.keep([chosen[place][1] for place in places], rows[places])

    def _fail(self, jobs: list[_Job[Item]], err: Exception) -> None:
        self._accepts = False
        error = err if isinstance(err, LanternError) else ModelError("the model failed; the server restarts")
        queued: list[_Job[Item]] = []
        self._take(queued, wait=False)
        for job in [*jobs, *queued]:
            if not job.result.done():
                job.result.set_exception(error)
        self._on_failure(err)


class AsyncEmbedder(AsyncTextModel[Sequence[int]]):
    """An embedder in a thread of its own."""

    def __init__(self, embedder: Embedder, *, name: str, on_failure: Callable[[BaseException], None]) -> None:
        super().__init__(embedder.embed, name=name, on_failure=on_failure)

    async def embed(self, sequences: Sequence[Sequence[int]], *, max_wait_s: float | None = None) -> Rows:
        """Unit vectors (N, D) float32; see `submit`."""
        return await self.submit(sequences, max_wait_s=max_wait_s)


class AsyncReranker(AsyncTextModel[TokenPair]):
    """A reranker in a thread of its own."""

    def __init__(self, reranker: Reranker, *, name: str, on_failure: Callable[[BaseException], None]) -> None:
        super().__init__(reranker.score, name=name, on_failure=on_failure)

    async def score(self, pairs: Sequence[TokenPair], *, max_wait_s: float | None = None) -> Rows:
        """Logits (N,) float32; see `submit`."""
        return await self.submit(pairs, max_wait_s=max_wait_s)


def choose(
    waiting: Sequence[list[int]],
    items: Sequence[Sequence[Sized]],
    max_items: int,
    max_tokens: int = _MAX_TOKENS_PER_ROUND,
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


def _answer(ping: asyncio.Future[None]) -> None:
    if not ping.done():
        ping.set_result(None)


def _resolve(job: _Job[Item]) -> None:
    if not job.result.done():
        job.result.set_result(np.empty(0, np.float32) if job.rows is None else job.rows)
