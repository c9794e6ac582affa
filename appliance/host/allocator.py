"""The C library's allocator keeps what was freed for the next who asks; here it is told to give that back."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
from collections.abc import AsyncIterator


def trim() -> bool:
    """Return freed pages to the system; False where there is nothing to call, as without glibc.

    glibc returns only what lies at the end of a heap, and keeps one heap a thread: after loading models tens of
    megabytes are neither used nor given back, and under mixed load their number creeps up for hours.
    """
    malloc_trim = getattr(_LIBC, "malloc_trim", None)
    if malloc_trim is None:
        return False
    malloc_trim(0)
    return True


@contextlib.asynccontextmanager
async def trimming(*, interval_s: float = 30.0) -> AsyncIterator[None]:
    """Trim at once and then now and then, in a thread, until the block is left."""

    async def run() -> None:
        while True:
            await asyncio.to_thread(trim)
            await asyncio.sleep(interval_s)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


_LIBC = ctypes.CDLL(None)
