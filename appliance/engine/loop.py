"""The engine in a thread of its own: requests go in through the inbox, the outputs of a step come back in one call.

Streams belong to the event loop, the engine to its thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Self

from appliance.engine.engine import Engine
from appliance.engine.types import EngineStats, Finished, Output, Request
from appliance.engine.worker import Worker
from appliance.errors import ContextLengthError, LanternError, OverloadedError, UnavailableError

_LOGGER = logging.getLogger(__name__)


class TokenStream:
    """The outputs of requests that were submitted together, in order of arrival; owned by the event loop.

    Leaving its `with` cancels the requests that still run.
    """

    def __init__(
        self, request_ids: Iterable[str], *, cancel: Callable[[str], None], close: Callable[[Iterable[str]], None]
    ) -> None:
        """Open the stream; `cancel` ends a request in the engine, `close` is called when the stream is left."""
        self._ids = frozenset(request_ids)
        self._cancel = cancel
        self._close = close
        self._running = set(self._ids)
        self._outputs: list[Output] = []
        self._arrived = asyncio.Event()
        self._error: LanternError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for request_id in self._running:
            self._cancel(request_id)
        self._running.clear()
        self._arrived.set()
        self._close(self._ids)

    async def ready(self) -> None:
        """Wait until there is something to take; the first output comes when a request gets its slot."""
        while not self._outputs and self._error is None and self._running:
            self._arrived.clear()
            await self._arrived.wait()

    def take(self) -> list[Output]:
        """Return the outputs that have arrived; an empty list, once the stream is ready, is its end.

        Raises:
            ModelError: the model failed.
            UnavailableError: the service stops.
        """
        arrived, self._outputs = self._outputs, []
        if self._error is not None and self._running and not arrived:
            raise self._error
        return arrived

    def put_back(self, outputs: list[Output]) -> None:
        """Return outputs that were taken, to be taken again before any other."""
        self._outputs = outputs + self._outputs
        self._arrived.set()

    def cancel(self, request_id: str) -> None:
        """End one of the requests, if it still runs; its slot is free for the next step."""
        if request_id in self._running:
            self._running.discard(request_id)
            self._cancel(request_id)

    def deliver(self, output: Output) -> None:
        """Add an output, unless its request was cancelled."""
        if output.request_id not in self._running:
            return
        if isinstance(output, Finished):
            self._running.discard(output.request_id)
        self._outputs.append(output)
        self._arrived.set()

    def fail(self, error: LanternError) -> None:
        """End the stream with an error once its outputs are read."""
        self._error = error
        self._arrived.set()


class AsyncEngine(Worker):
    """An engine in a thread of its own. Its public methods are called on the event loop."""

    def __init__(
        self,
        engine: Engine,
        *,
        name: str,
        capacity: int,
        max_waiting: int,
        on_failure: Callable[[BaseException], None],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Wrap an engine whose slots hold `capacity` tokens; `max_waiting` requests are queued beyond the slots.

        `on_end` is the thread's last call.
        """
        super().__init__(f"engine-{name}", on_failure, on_end)
        self._engine = engine
        self._capacity = capacity
        self._max_requests = engine.stats().num_slots + max_waiting
        self._streams: dict[str, TokenStream] = {}
        self._drained = asyncio.Event()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._abort(UnavailableError("the server is stopping; send the request again"))
        for request_id in self._streams:
            self._cancel(request_id)
        await super().__aexit__(kind, value, trace)

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests, and let running ones finish for a while."""
        await super().drain(timeout_s)
        if not (self._streams and timeout_s):
            return
        self._drained.clear()
        try:
            await asyncio.wait_for(self._drained.wait(), timeout_s)
        except TimeoutError:
            _LOGGER.info("running requests are cut off")

    def stats(self) -> EngineStats:
        """Return the counts so far."""
        return self._engine.stats()

    def limit_slots(self, num_resting: int) -> None:
        """See Worker."""
        self.tell(partial(self._engine.limit_slots, num_resting))

    @property
    def keeps_states(self) -> bool:
        """Return True if prompts start at kept states, and so gain from borders."""
        return self._engine.slots.keeps_states

    @property
    def capacity(self) -> int:
        """Return the number of tokens that a prompt and its completion have together."""
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

    def submit(self, *requests: Request) -> TokenStream:
        """Queue requests, all or none; call it before the first byte of an answer.

        Raises:
            ContextLengthError: a prompt and its max_tokens do not fit into a slot.
            OverloadedError: the queue is full.
            UnavailableError: the engine does not run (any more).
        """
        self._check_accepts()
        for request in requests:
            if len(request.prompt) + request.params.max_tokens > self._capacity:
                raise ContextLengthError(
                    f"{len(request.prompt)} prompt tokens and {request.params.max_tokens} more were asked for; "
                    f"the context holds {self._capacity}"
                )
        if len(self._streams) + len(requests) > self._max_requests:
            raise OverloadedError(f"{len(self._streams)} requests are running or waiting already; try again later")
        stream = TokenStream([request.id for request in requests], cancel=self._cancel, close=self._close)
        for request in requests:
            self._streams[request.id] = stream
            self.tell(partial(self._engine.add, request))
        return stream

    @property
    def _has_work(self) -> bool:
        return self._engine.has_work

    def _step(self) -> None:
        outputs = self._engine.step()
        if outputs:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._deliver, outputs)

    def _deliver(self, outputs: list[Output]) -> None:
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is not None:
                stream.deliver(output)

    def _abort(self, error: LanternError) -> None:
        for stream in self._streams.values():
            stream.fail(error)

    def _cancel(self, request_id: str) -> None:
        self.tell(partial(self._engine.cancel, request_id))

    def _close(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            self._streams.pop(request_id, None)
        if not self._streams:
            self._drained.set()
