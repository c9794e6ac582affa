"""A step plan becomes logits: the decoder graph under onnxruntime, bound to the K/V cache's own memory.

The graph that every decoder bundle holds:

inputs   input_ids (B, S) int64; seqlens_k (B,) int32, tokens in the row after the step less one;
         total_sequence_length () int32; logit_rows (R,) int64, rows of the flattened B * S tokens;
         past_key_values.I.key and .value (B, kv_heads, capacity, head_dim)
outputs  logits (R, V) float32; present.I.key and .value, the same memory as the past
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec
from appliance.engine.kv_cache import KVCache
from appliance.engine.prepacked import ModelFile
from appliance.engine.types import StepPlan
from appliance.errors import ModelError


class ModelRunner(Protocol):
    """What the engine needs of a model; the counting fake of the tests is another one."""

    @property
    def num_rows(self) -> int:
        """Rows of the K/V cache."""

    @property
    def capacity(self) -> int:
        """Tokens that one row holds."""

    @property
    def vocab_size(self) -> int:
        """V."""

    def run(self, plan: StepPlan) -> NDArray[np.float32]:
        """Compute the plan's tokens, writing K/V in place.

        Returns:
            Logits (R, V), R = rows asked for; valid until the next call.

        Raises:
            ModelError: the cache is undefined from here on.
        """

    def copy_row(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the first tokens of one row over another."""

    def swap_rows(self, a: int, b: int, num_tokens: int) -> None:
        """Exchange the first tokens of two rows."""


class OrtModelRunner:
    """The decoder on onnxruntime; used by one thread at a time."""

    def __init__(
        self,
        model: ModelFile,
        spec: DecoderSpec,
        *,
        num_rows: int,
        capacity: int,
        num_threads: int,
        spinning: bool = False,
    ) -> None:
        """Load the graph and reserve the cache (its pages are touched only as rows fill).

        Raises:
            ModelError: the file is not such a graph, or onnxruntime cannot run it.
        """
        try:
            self._session = model.session(num_threads, spinning=spinning)
        except Exception as err:
            raise ModelError(f"{model.path.name} cannot be loaded: {_first_line(err)}") from err
        self._cache = KVCache(spec, num_rows=num_rows, capacity=capacity)
        self._vocab_size = spec.vocab_size
        self._bindings: dict[tuple[int, int], ort.IOBinding] = {}
        self._bound: tuple[NDArray[np.generic], ...] = ()

    @property
    def num_rows(self) -> int:
        """Rows of the K/V cache."""
        return self._cache.num_rows

    @property
    def capacity(self) -> int:
        """Tokens that one row holds."""
        return self._cache.capacity

    @property
    def vocab_size(self) -> int:
        """V."""
        return self._vocab_size

    def run(self, plan: StepPlan) -> NDArray[np.float32]:
        """See ModelRunner.run; deterministic, and no row's result depends on its neighbours."""
        num_rows, num_new = plan.input_ids.shape
        total = plan.past_lens + np.int32(num_new)
        binding = self._binding(plan.first_row, num_rows)
        feeds: dict[str, NDArray[np.generic]] = {
            "input_ids": np.ascontiguousarray(plan.input_ids),
            "seqlens_k": (total - 1).astype(np.int32),
            "total_sequence_length": np.asarray(total.max(), np.int32),
            "logit_rows": np.ascontiguousarray(plan.logit_rows),
        }
        logits = np.empty((len(plan.logit_rows), self._vocab_size), np.float32)
        # The binding keeps raw pointers only: whatever is bound has to live until the next run.
        self._bound = (*feeds.values(), logits)
        for name, array in feeds.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as err:
            raise ModelError(f"the model failed in a step: {_first_line(err)}") from err
        return logits

    def copy_row(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the first tokens of one row over another."""
        self._cache.copy_row(source, target, num_tokens)

    def swap_rows(self, a: int, b: int, num_tokens: int) -> None:
        """Exchange the first tokens of two rows."""
        self._cache.swap_rows(a, b, num_tokens)

    def _binding(self, first_row: int, num_rows: int) -> ort.IOBinding:
        key = (first_row, num_rows)
        if key not in self._bindings:
            binding = self._session.io_binding()
            for name, array in self._cache.items():
                view = array[first_row : first_row + num_rows]
                binding.bind_input(f"past_key_values.{name}", "cpu", 0, view.dtype, view.shape, view.ctypes.data)
                binding.bind_output(f"present.{name}", "cpu", 0, view.dtype, view.shape, view.ctypes.data)
            self._bindings[key] = binding
        return self._bindings[key]


def _first_line(err: Exception) -> str:
    return str(err).strip().splitlines()[0][:300] if str(err).strip() else type(err).__name__
