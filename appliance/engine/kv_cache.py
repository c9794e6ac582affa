"""Keys and values of every layer, reserved once: one row a sequence, each row one piece of memory."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec

CacheType = Literal["float32", "int8"]


@dataclass(frozen=True, slots=True)
class BoundRows:
    """Neighbouring rows of one of a cache's arrays, as onnxruntime binds them: by where they begin."""

    name: str  # "LAYER.key" or "LAYER.value"
    device: str  # as onnxruntime calls it: "cpu", "cuda"
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]  # (rows, kv_heads, capacity, head_dim)
    address: int


class KVCache:
    """Two arrays (rows, kv_heads, capacity, head_dim) a layer; owned by the engine thread."""

    def __init__(self, spec: DecoderSpec, *, num_rows: int, capacity: int, cache_type: CacheType) -> None:
        self.num_rows = num_rows
        self.capacity = capacity
        shape = (num_rows, spec.num_kv_heads, capacity, spec.head_dim)
        dtype = np.dtype(cache_type)
        self._arrays: dict[str, NDArray[np.generic]] = {
            f"{layer}.{part}": _reserve(shape, dtype) for layer in range(spec.num_layers) for part in ("key", "value")
        }

    def items(self) -> Iterator[tuple[str, NDArray[np.generic]]]:
        """Pairs of "LAYER.key" or "LAYER.value" and the whole array."""
        yield from self._arrays.items()

    def bound_rows(self, first_row: int, num_rows: int) -> Iterator[BoundRows]:
        """What a step over these rows reads and writes."""
        for name, array in self._arrays.items():
            view = array[first_row : first_row + num_rows]
            yield BoundRows(name, "cpu", view.dtype, view.shape, view.ctypes.data)

    def copy_row(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the first tokens of one row over another."""
        for array in self._arrays.values():
            array[target, :, :num_tokens] = array[source, :, :num_tokens]

    def swap_rows(self, a: int, b: int, num_tokens: int) -> None:
        """Exchange the first tokens of two rows."""
        for array in self._arrays.values():
            kept = array[a, :, :num_tokens].copy()
            array[a, :, :num_tokens] = array[b, :, :num_tokens]
            array[b, :, :num_tokens] = kept

    @property
    def bytes_per_token(self) -> int:
        """What one token of one row takes in all layers."""
        return sum(a.shape[1] * a.shape[3] * a.itemsize for a in self._arrays.values())


def _reserve(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """Zeros whose pages are taken only when they are written.

    numpy asks for huge pages for arrays of this size, so that a few tokens of each layer would take 2 MiB each.
    """
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages knows no such advice
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)
