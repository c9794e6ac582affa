"""The C library's allocator: one heap for all threads, and what was freed goes back to the system."""

from __future__ import annotations

import asyncio
import ctypes
from contextlib import AbstractAsyncContextManager

from appliance.background import run_in_background

_M_ARENA_MAX = -8  # malloc.h


def use_one_heap() -> None:
    """Let all threads that start from now on share one heap; without glibc nothing happens.

    By itself glibc gives threads heaps of their own, up to eight a core. What one frees no other can use, and under
    mixed load their number of half-used pages grows for hours: after three minutes 21 MiB were free and kept with
    many heaps, 9 MiB with one, and only the latter grew no more.
    """
    mallopt = getattr(_LIBC, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def trim() -> bool:
    """Return freed pages to the system; False where there is nothing to call, as without glibc.

    glibc itself returns only what lies at the end of a heap.
    """
    malloc_trim = getattr(_LIBC, "malloc_trim", None)
    if malloc_trim is None:
        return False
    malloc_trim(0)
    return True


def trimming(*, interval_s: float = 10.0) -> AbstractAsyncContextManager[None]:
    """Trim at once and then now and then, in a thread, until the block is left."""

    async def run() -> None:
        while True:
            await asyncio.to_thread(trim)
            await asyncio.sleep(interval_s)

    return run_in_background(run())


_LIBC = ctypes.CDLL(None)
