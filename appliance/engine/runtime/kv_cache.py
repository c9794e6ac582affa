"""Keys and values of every layer, reserved once: a slot for each sequence, each slot one piece of memory."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from appliance.engine.graphs.slot_arrays import SlotArray

CacheType = Literal["float32", "int8"]


@dataclass(frozen=True, slots=True)
class BoundSlots:
    """Neighbouring slots in one of a model's arrays, as onnxruntime binds them: by address."""

    past: str  # the graph's input
    present: str  # its output
    device: str  # as onnxruntime calls it: "cpu", "cuda"
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]  # (slots, ...)
    address: int


class KVCache:
    """Arrays (slots, kv_heads, capacity, head_dim), two for each layer that has any; owned by the engine thread."""

    def __init__(self, arrays: Sequence[SlotArray], *, num_slots: int, capacity: int) -> None:
        self.num_slots = num_slots
        self.capacity = capacity
        self._names = [(array.past, array.present) for array in arrays]
        self._arrays: dict[str, NDArray[np.generic]] = {
            array.past: reserve((num_slots, array.shape[0], capacity, array.shape[1]), array.dtype) for array in arrays
        }

    def bound_slots(self, first_slot: int, num_slots: int) -> Iterator[BoundSlots]:
        """Yield the memory that a step over these slots reads and writes."""
        for past, present in self._names:
            view = self._arrays[past][first_slot : first_slot + num_slots]
            yield BoundSlots(past, present, "cpu", view.dtype, view.shape, view.ctypes.data)

    def copy_slot(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the first tokens of one slot over another."""
        for array in self._arrays.values():
            array[target, :, :num_tokens] = array[source, :, :num_tokens]

    def swap_slots(self, a: int, b: int, num_tokens: int) -> None:
        """Exchange the first tokens of two slots."""
        for array in self._arrays.values():
            kept = array[a, :, :num_tokens].copy()
            array[a, :, :num_tokens] = array[b, :, :num_tokens]
            array[b, :, :num_tokens] = kept

    def slot(self, slot: int, num_tokens: int) -> dict[str, NDArray[np.generic]]:
        """Return views (kv_heads, tokens, head_dim) of the first tokens of a slot, by the graph's inputs."""
        return {name: array[slot, :, :num_tokens] for name, array in self._arrays.items()}


def reserve(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """Return zeros whose pages are taken only when they are written.

    numpy asks for huge pages for arrays of this size, so that a few tokens of each layer would take 2 MiB each.
    """
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages knows no such advice
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)
