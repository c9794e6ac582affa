"""Work that goes on beside a block of code on the event loop, and things that live as long as one."""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self


@contextlib.asynccontextmanager
async def run_in_background(work: Coroutine[Any, Any, None], *, name: str | None = None) -> AsyncIterator[None]:
    """Run a task until the block is left, which cancels and awaits it; what the task raised is raised there."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Lifetime(abc.ABC):
    """Base of what is started and ended by `async with`, once; a subclass says how, as one generator."""

    _living: AbstractAsyncContextManager[None] | None = None

    @abc.abstractmethod
    def _live(self) -> AsyncIterator[None]:
        """Start, yield once, and end in a `finally`."""

    async def __aenter__(self) -> Self:
        assert self._living is None, "started twice"
        self._living = contextlib.asynccontextmanager(self._live)()
        await self._living.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._living is not None
        return await self._living.__aexit__(kind, err, traceback)
