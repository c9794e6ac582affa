"""The events of one response that is made in the background, kept for clients that come back; owned by the event loop.

The oldest events are dropped beyond a size: a client that was away for long reads the response itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

_MAX_BYTES = 2 << 20
_EVENT_BYTES = 48  # of the bytes object and its place, measured


class FallenBehindError(TimeoutError):
    """A client reads so slowly that the events it needs next are dropped."""


class EventLog:
    """Encoded events, numbered from 0."""

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self.first = 0  # the number of the oldest event that is kept
        self.is_over = False
        self.size_bytes = 0
        self._max_bytes = max_bytes
        self._events: deque[bytes] = deque()
        self._changed = asyncio.Event()

    @property
    def end(self) -> int:
        """Return the number of the next event."""
        return self.first + len(self._events)

    def append(self, event: bytes) -> None:
        """Add an event, and wake those who follow."""
        self._events.append(event)
        self.size_bytes += len(event) + _EVENT_BYTES
        while self.size_bytes > self._max_bytes and len(self._events) > 1:
            self.size_bytes -= len(self._events.popleft()) + _EVENT_BYTES
            self.first += 1
        self._wake()

    def close(self) -> None:
        """Tell those who follow that no event comes any more."""
        self.is_over = True
        self._wake()

    async def follow(self, start: int) -> AsyncIterator[list[bytes]]:
        """Yield the events from a number on, as many as there are at once, until the last one.

        Raises:
            FallenBehindError: an event is no longer kept.
        """
        while True:
            if start < self.first:
                raise FallenBehindError
            if start < self.end:
                events = [self._events[i] for i in range(start - self.first, len(self._events))]
                start += len(events)
                yield events
            elif self.is_over:
                return
            else:
                await self._changed.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
