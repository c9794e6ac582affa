"""The memory bandwidth of this machine with as many threads as the model has: the bound of a decode step."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil

_LARGEST_BYTES = 1 << 29
_SMALLEST_BYTES = 1 << 26
_MEMORY_SHARE = 8  # of the free memory, so that a small board does not swap
_NUM_READS = 3


def read_bandwidth(num_threads: int, *, size_bytes: int | None = None) -> float:
    """Measure bytes per second of reading one large array, the best of a few reads: it is a bound.

    The maximum of 32-bit integers is what numpy reads fastest; it releases the interpreter's lock.
    """
    free = psutil.virtual_memory().available // _MEMORY_SHARE
    size = size_bytes or max(_SMALLEST_BYTES, min(_LARGEST_BYTES, free))
    array = np.ones(size // 4, np.int32)
    parts = np.array_split(array, num_threads)
    with ThreadPoolExecutor(num_threads, thread_name_prefix="bandwidth") as pool:

        def read_s() -> float:
            begin_s = time.perf_counter()
            for _ in pool.map(np.max, parts):
                pass
            return time.perf_counter() - begin_s

        return array.nbytes / min(read_s() for _ in range(_NUM_READS))
