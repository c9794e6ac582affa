"""The engine thread and its asyncio side: requests go in through an inbox, a step's outputs come back in one call.

The only asyncio in engine/. Streams belong to the event loop, the engine to its thread; messages cross in between.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from appliance.engine.engine import Engine
from appliance.engine.types import EngineStats, Request, StepOutput
from appliance.errors import ContextLengthError, LanternError, ModelError, OverloadedError, UnavailableError

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Add:
    request: Request


@dataclass(frozen=True, slots=True)
class _Cancel:
    request_id: str


@dataclass(frozen=True, slots=True)
class _Rest:
    num_slots: int


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


@dataclass(frozen=True, slots=True)
class _Ping:
    answer: asyncio.Future[None]


_Message = _Add | _Cancel | _Ping | _Rest | _Stop


class TokenStream:
    """The outputs of one request, in order; owned by the event loop. Leaving its `with` cancels what still runs."""

    def __init__(self, request_id: str, close: Callable[[str], None]) -> None:
        self._request_id = request_id
        self._close = close
        self._outputs: deque[StepOutput] = deque()
        self._arrived = asyncio.Event()
        self._error: LanternError | None = None
        self._is_over = False
        self.on_output: Callable[[StepOutput], None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        self._arrived.set()
        self._close(self._request_id)

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> StepOutput:
        """The next output.

        Raises:
            ModelError: the model failed.
            UnavailableError: the service stops.
        """
        while not self._outputs:
            if self._error is not None:
                raise self._error
            if self._is_over:
                raise StopAsyncIteration
            await self.begun()
        output = self._outputs.popleft()
        self._is_over = self._is_over or output.finish_reason is not None
        return output

    async def begun(self) -> None:
        """Wait until there is something to read; the first output comes when the request gets its row."""
        while not self._outputs and self._error is None and not self._is_over:
            self._arrived.clear()
            await self._arrived.wait()

    def deliver(self, output: StepOutput) -> None:
        """Add an output; called on the loop by the engine."""
        self._outputs.append(output)
        self._arrived.set()
        if self.on_output is not None:
            self.on_output(output)

    def fail(self, error: LanternError) -> None:
        """End the stream with an error once its outputs are read."""
        self._error = error
        self._arrived.set()


class AsyncEngine:
    """An engine in a thread of its own. Every method is called on the event loop."""

    def __init__(
        self,
        engine: Engine,
        *,
        name: str,
        capacity: int,
        max_waiting: int,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`capacity`: tokens of one row; `max_waiting`: requests beyond the slots; `on_failure`: the model is lost."""
        self._engine = engine
        self._capacity = capacity
        self._max_streams = engine.stats().num_slots + max_waiting
        self._on_failure = on_failure
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._streams: dict[str, TokenStream] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._accepts = False
        self._drained = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.get_running_loop()
        self._accepts = True
        self._thread.start()

    async def stop(self, *, drain_s: float = 0.0) -> None:
        """Refuse new requests, let running ones finish for a while, then end the thread."""
        self._accepts = False
        if self._streams and drain_s:
            self._drained.clear()
            with _timed_out():
                await asyncio.wait_for(self._drained.wait(), drain_s)
        for stream in self._streams.values():
            stream.fail(UnavailableError("the server is stopping; send the request again"))
        self._inbox.put(_Stop())
        await asyncio.to_thread(self._thread.join)

    def stats(self) -> EngineStats:
        """Counts so far."""
        return self._engine.stats()

    async def ping(self) -> None:
        """Return once the thread came around, idle or between two steps; never where it hangs or has ended."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._inbox.put(_Ping(answer))
        await answer

    def rest_slots(self, num_slots: int) -> None:
        """Leave so many slots empty from now on, but one."""
        self._inbox.put(_Rest(num_slots))

    @property
    def is_alive(self) -> bool:
        """Whether the engine thread runs."""
        return self._thread.is_alive()

    @property
    def capacity(self) -> int:
        """Tokens that a prompt and its answer have together."""
        return self._capacity

    def check(self, num_prompt_tokens: int, *, param: str = "messages") -> None:
        """Refuse a prompt that leaves no room for one token.

        Raises:
            ContextLengthError: with both numbers.
        """
        if num_prompt_tokens >= self._capacity:
            raise ContextLengthError(
                f"This model's maximum context length is {self._capacity} tokens. However, your {param} resulted in "
                f"{num_prompt_tokens} tokens. Please reduce the length of the {param}.",
                param=param,
            )

    def submit(self, request: Request) -> TokenStream:
        """Queue a request, before the first byte of an answer.

        Raises:
            ContextLengthError: the prompt and its max_tokens do not fit into a row.
            OverloadedError: the queue is full.
            UnavailableError: the engine does not run (any more).
        """
        if not self._accepts:
            raise UnavailableError("the server is not accepting requests right now; try again in a few seconds")
        if len(request.prompt) + request.params.max_tokens > self._capacity:
            raise ContextLengthError(
                f"{len(request.prompt)} prompt tokens and {request.params.max_tokens} more were asked for; "
                f"the context holds {self._capacity}"
            )
        if len(self._streams) >= self._max_streams:
            raise OverloadedError(f"{len(self._streams)} requests are running or waiting already; try again later")
        stream = TokenStream(request.id, self._close)
        self._streams[request.id] = stream
        self._inbox.put(_Add(request))
        return stream

    def _close(self, request_id: str) -> None:
        if self._streams.pop(request_id, None) is not None:
            self._inbox.put(_Cancel(request_id))
        if not self._streams:
            self._drained.set()

    def _deliver(self, outputs: list[StepOutput]) -> None:
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is not None:
                stream.deliver(output)

    def _fail(self, err: BaseException) -> None:
        self._accepts = False
        error = err if isinstance(err, LanternError) else ModelError("the model failed; the server restarts")
        for stream in self._streams.values():
            stream.fail(error)
        self._on_failure(err)

    def _run(self) -> None:
        """The engine thread."""
        loop = self._loop
        assert loop is not None
        try:
            while self._take_messages():
                outputs = self._engine.step() if self._engine.has_work else []
                if outputs:
                    loop.call_soon_threadsafe(self._deliver, outputs)
        except Exception as err:
            _LOGGER.exception("the engine thread ends")
            loop.call_soon_threadsafe(self._fail, err)

    def _take_messages(self) -> bool:
        """Apply what arrived; sleep while there is nothing to do. False ends the thread."""
        while True:
            try:
                message = self._inbox.get(block=not self._engine.has_work)
            except queue.Empty:
                return True
            match message:
                case _Add(request):
                    self._engine.add(request)
                case _Cancel(request_id):
                    self._engine.cancel(request_id)
                case _Ping(answer):
                    answer.get_loop().call_soon_threadsafe(_answer, answer)
                case _Rest(num_slots):
                    self._engine.rest_slots(num_slots)
                case _Stop():
                    return False


def _answer(ping: asyncio.Future[None]) -> None:
    if not ping.done():
        ping.set_result(None)


@contextmanager
def _timed_out() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        _LOGGER.info("running requests are cut off")
