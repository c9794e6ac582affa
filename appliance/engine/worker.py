"""A thread that works through what its inbox brings, and its asyncio side; the only threads of engine/.

What belongs to the thread is touched there only: the event loop puts calls into the inbox, and the thread sends results
back by `call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

from appliance.engine.types import EngineStats
from appliance.errors import LanternError, ModelError, UnavailableError

_LOGGER = logging.getLogger(__name__)

Message = Callable[[], object]
"""A call that the thread makes between two steps."""


class Worker(ABC):
    """The thread of a loaded model, which runs within `async with`.

    Methods without a leading underscore are called on the event loop. Leaving the block lets the thread finish what it
    has, and waits for its end.
    """

    def __init__(
        self, name: str, on_failure: Callable[[BaseException], None], on_end: Callable[[], None] = lambda: None
    ) -> None:
        """Prepare the thread; `on_failure` is called on the event loop, once, when it ends by an exception.

        `on_end` is the last call of a thread that was told to end.
        """
        self._on_failure = on_failure
        self._on_end = on_end
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._accepts = False
        self._processor_clock: int | None = None
        self._is_stopping = False  # belongs to the thread

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._accepts = True
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._accepts = False
        self.tell(self._stop)
        await asyncio.to_thread(self._thread.join)

    def tell(self, message: Message) -> None:
        """Have the thread make a call, after the step that it is in."""
        self._inbox.put(message)

    async def ping(self) -> None:
        """Return once the thread has read its inbox; never if it hangs or has ended."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[None] = loop.create_future()
        self.tell(lambda: loop.call_soon_threadsafe(_resolve, answer))
        await answer

    def processor_s(self) -> float:
        """Return the processor time in seconds that the thread has used; 0 before its start and after its end."""
        clock = self._processor_clock
        if clock is None:
            return 0.0
        try:
            return time.clock_gettime(clock)
        except OSError:  # of a thread that has ended
            return 0.0

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests; a worker with long ones lets them run for a while."""
        self._accepts = False

    @abstractmethod
    def limit_slots(self, num_resting: int) -> None:
        """Leave this many slots empty from now on; one always works."""

    @abstractmethod
    def stats(self) -> EngineStats | None:
        """Return the counts of an engine; None for a model without one."""

    def _check_accepts(self) -> None:
        if not self._accepts:
            raise UnavailableError("the server is not accepting requests right now; try again in a few seconds")

    @property
    @abstractmethod
    def _has_work(self) -> bool:
        """Return True if a step would do anything; on the thread."""

    @abstractmethod
    def _step(self) -> None:
        """Do the next piece of work; on the thread. An exception ends the thread and the model with it."""

    @abstractmethod
    def _abort(self, error: LanternError) -> None:
        """End every request with an error; on the event loop."""

    def _run(self) -> None:
        loop = self._loop
        assert loop is not None
        if sys.platform == "linux":
            self._processor_clock = time.pthread_getcpuclockid(threading.get_ident())
        try:
            while self._read_inbox():
                self._step()
            self._on_end()
        except Exception as err:
            _LOGGER.exception("the thread %s ends", self._thread.name)
            loop.call_soon_threadsafe(self._fail, err)

    def _read_inbox(self) -> bool:
        """Make the calls that arrived, and sleep until there is work; False ends the thread."""
        has_work = self._has_work
        while True:
            try:
                message = self._inbox.get(block=not (has_work or self._is_stopping))
            except queue.Empty:
                return has_work
            message()
            has_work = self._has_work

    def _stop(self) -> None:
        self._is_stopping = True

    def _fail(self, err: Exception) -> None:
        self._accepts = False
        self._abort(err if isinstance(err, LanternError) else ModelError("the model failed; the server restarts"))
        self._on_failure(err)


def _resolve(answer: asyncio.Future[None]) -> None:
    if not answer.done():
        answer.set_result(None)
