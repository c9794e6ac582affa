"""Freed memory goes back to the system, also from below memory in use."""

from __future__ import annotations

import asyncio
import ctypes
import subprocess
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


_HEAPS = """
import ctypes, threading
from appliance.host.allocator import use_one_heap
{first}
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
barrier = threading.Barrier(5)
def take():
    for _ in range(100):
        libc.malloc(50_000)
    barrier.wait()
threads = [threading.Thread(target=take) for _ in range(4)]
for thread in threads:
    thread.start()
barrier.wait()
stdout = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, stdout)
libc.fflush(stdout)
"""


def num_heaps(first: str) -> int:
    """Of a process in which four threads took memory."""
    command = [sys.executable, "-c", _HEAPS.format(first=first)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.count("<heap ")


@needs_glibc
def test_all_threads_share_one_heap() -> None:
    assert num_heaps("use_one_heap()") == 1
    assert num_heaps("") > 1


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
