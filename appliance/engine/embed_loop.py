"""The embedder's thread and its asyncio side: what arrives while one batch runs goes together into the next."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.engine.embedder import Embedder
from appliance.errors import LanternError, ModelError, OverloadedError, UnavailableError

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Job:
    sequences: Sequence[Sequence[int]]
    result: asyncio.Future[NDArray[np.float32]]


class AsyncEmbedder:
    """An embedder in a thread of its own. Every method is called on the event loop."""

    def __init__(
        self,
        embedder: Embedder,
        *,
        name: str,
        max_waiting: int = 64,
        max_sequences_per_batch: int = 64,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`max_waiting` bounds jobs; `max_sequences_per_batch` how many sequences of several jobs run together."""
        self._embedder = embedder
        self._max_waiting = max_waiting
        self._max_sequences = max_sequences_per_batch
        self._on_failure = on_failure
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._num_jobs = 0
        self._accepts = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name=f"embedder-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.get_running_loop()
        self._accepts = True
        self._thread.start()

    async def stop(self) -> None:
        """Finish what is queued, then end the thread."""
        self._accepts = False
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    async def embed(self, sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Unit vectors (N, D) float32, each independent of what else runs; cancelling skips a job not begun.

        Raises:
            OverloadedError: the queue is full.
            UnavailableError: the embedder does not run (any more).
            ModelError: the model failed.
        """
        if not self._accepts or self._loop is None:
            raise UnavailableError("the server is not accepting requests right now; try again in a few seconds")
        if self._num_jobs >= self._max_waiting:
            raise OverloadedError(f"{self._num_jobs} embedding requests are waiting already; try again later")
        job = _Job(sequences, self._loop.create_future())
        self._num_jobs += 1
        try:
            self._jobs.put(job)
            return await job.result
        finally:
            self._num_jobs -= 1

    def _run(self) -> None:
        """The embedder's thread."""
        loop = self._loop
        assert loop is not None
        while jobs := self._take():
            wanted = [job for job in jobs if not job.result.cancelled()]
            try:
                vectors = self._embedder.embed([s for job in wanted for s in job.sequences])
            except Exception as err:
                _LOGGER.exception("the embedder's thread ends")
                loop.call_soon_threadsafe(self._fail, wanted, err)
                return
            start = 0
            for job in wanted:
                end = start + len(job.sequences)
                loop.call_soon_threadsafe(_resolve, job.result, vectors[start:end])
                start = end

    def _take(self) -> list[_Job]:
        """At least one job, and those that wait behind it as far as they fit; empty ends the thread."""
        first = self._jobs.get()
        if first is None:
            return []
        jobs, num_sequences = [first], len(first.sequences)
        while num_sequences < self._max_sequences:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)
                break
            jobs.append(job)
            num_sequences += len(job.sequences)
        return jobs

    def _fail(self, jobs: list[_Job], err: Exception) -> None:
        self._accepts = False
        error = err if isinstance(err, LanternError) else ModelError("the model failed; the server restarts")
        for job in jobs:
            if not job.result.done():
                job.result.set_exception(error)
        self._on_failure(err)


def _resolve(future: asyncio.Future[NDArray[np.float32]], vectors: NDArray[np.float32]) -> None:
    if not future.done():
        future.set_result(vectors)
