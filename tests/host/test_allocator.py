"""What was freed goes back to the system, also from below what is still in use."""

from __future__ import annotations

import asyncio
import ctypes
import sys
from pathlib import Path

import pytest

from appliance.host.allocator import trim, trimming

_BLOCK_BYTES = 64 << 10  # below glibc's threshold for a mapping of its own
_NUM_BLOCKS = 800
_MIB = 1 << 20

needs_glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc's allocator is not here"
)


def anonymous_bytes() -> int:
    [line] = [text for text in Path("/proc/self/smaps_rollup").read_text("ascii").splitlines() if "Anonymous:" in text]
    return int(line.split()[1]) << 10


class Blocks:
    """50 MiB that glibc took from a heap; the last block stays in use above the others."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._libc.malloc.restype = ctypes.c_void_p
        self._libc.malloc.argtypes, self._libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
        self._blocks = [self._libc.malloc(_BLOCK_BYTES) for _ in range(_NUM_BLOCKS)]
        for block in self._blocks:
            ctypes.memset(block, 1, _BLOCK_BYTES)

    def free_all_but_the_last(self) -> None:
        while len(self._blocks) > 1:
            self._libc.free(self._blocks.pop(0))

    def free(self) -> None:
        self._libc.free(self._blocks.pop())


@needs_glibc
def test_freed_memory_below_what_is_in_use_goes_back() -> None:
    blocks = Blocks()
    blocks.free_all_but_the_last()
    before = anonymous_bytes()
    assert trim()
    assert before - anonymous_bytes() > 40 * _MIB
    blocks.free()


@needs_glibc
def test_it_goes_back_while_the_service_runs() -> None:
    async def run() -> None:
        blocks = await asyncio.to_thread(Blocks)
        before = anonymous_bytes()
        async with trimming(interval_s=0.01):
            await asyncio.to_thread(blocks.free_all_but_the_last)
            async with asyncio.timeout(20):
                while before - anonymous_bytes() < 40 * _MIB:
                    await asyncio.sleep(0.01)
        blocks.free()

    asyncio.run(run())
