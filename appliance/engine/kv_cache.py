"""Keys and values of every layer, preallocated: one row a sequence, each row one piece of memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec


class KVCache:
    """Two arrays (rows, kv_heads, capacity, head_dim) a layer; owned by the engine thread."""

    def __init__(self, spec: DecoderSpec, *, num_rows: int, capacity: int) -> None:
        self.num_rows = num_rows
        self.capacity = capacity
        shape = (num_rows, spec.num_kv_heads, capacity, spec.head_dim)
        dtype = np.dtype(spec.kv_cache_dtype)
        self._arrays: dict[str, NDArray[np.generic]] = {
            f"{layer}.{part}": np.zeros(shape, dtype) for layer in range(spec.num_layers) for part in ("key", "value")
        }

    def items(self) -> Iterator[tuple[str, NDArray[np.generic]]]:
        """Pairs of "LAYER.key" or "LAYER.value" and the whole array."""
        yield from self._arrays.items()

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
