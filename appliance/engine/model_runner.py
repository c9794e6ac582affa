"""A step plan becomes logits: the decoder graph under onnxruntime, bound to the K/V cache's own memory.

The graph that every decoder bundle holds:

inputs   input_ids (B, S) int64; seqlens_k (B,) int32, tokens in the row after the step less one;
         total_sequence_length () int32; logit_rows (R,) int64, rows of the flattened B * S tokens;
         past_key_values.I.key and .value (B, kv_heads, capacity, head_dim)
outputs  logits (R, V) float32; present.I.key and .value, the same memory as the past

Its stepwise variant (engine/graph_edit.py) has S = `stepwise_width`; its lengths are those of the first token. Its
variant for prompts (engine/prompt_graph.py) takes B = 1.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec
from appliance.engine.device_cache import DeviceKVCache
from appliance.engine.graph_edit import present_names
from appliance.engine.kv_cache import KVCache
from appliance.engine.model_file import ModelFile
from appliance.engine.types import StepPlan, StepVariant
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

    @property
    def stepwise_width(self) -> int | None:
        """S of stepwise plans; None where there is no graph for them."""

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
            session = model.session(num_threads, spinning=spinning)
            stepwise = model.stepwise_session(num_threads, spinning=spinning)
            prompt = model.prompt_session(num_threads, spinning=spinning)
        except Exception as err:
            raise ModelError(f"{model.path.name} cannot be loaded: {_first_line(err)}") from err
        self._sessions: dict[StepVariant, ort.InferenceSession] = {"answer": session, "prompt": prompt or session}
        self._stepwise_width = None
        if stepwise is not None:
            self._sessions["stepwise"] = stepwise
            self._stepwise_width = model.stepwise_width
        self._cache = _cache_of(model, spec, num_rows, capacity)
        self._vocab_size = spec.vocab_size
        self._bindings: dict[tuple[int, int, StepVariant], ort.IOBinding] = {}
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

    @property
    def stepwise_width(self) -> int | None:
        """S of stepwise plans; None where there is no graph for them."""
        return self._stepwise_width

    def run(self, plan: StepPlan) -> NDArray[np.float32]:
        """See ModelRunner.run; deterministic, and no row's result depends on its neighbours."""
        num_rows, num_new = plan.input_ids.shape
        is_stepwise = plan.variant == "stepwise"
        total = plan.past_lens + np.int32(1 if is_stepwise else num_new)  # of the first token, or of all
        binding = self._binding(plan.first_row, num_rows, plan.variant)
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
            self._sessions[plan.variant].run_with_iobinding(binding)
        except Exception as err:
            raise ModelError(f"the model failed in a step: {_first_line(err)}") from err
        return logits

    def copy_row(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the first tokens of one row over another."""
        self._cache.copy_row(source, target, num_tokens)

    def swap_rows(self, a: int, b: int, num_tokens: int) -> None:
        """Exchange the first tokens of two rows."""
        self._cache.swap_rows(a, b, num_tokens)

    def _binding(self, first_row: int, num_rows: int, variant: StepVariant) -> ort.IOBinding:
        key = (first_row, num_rows, variant)
        if key not in self._bindings:
            self._bindings[key] = binding = self._sessions[variant].io_binding()
            num_presents = self._stepwise_width or 1 if variant == "stepwise" else 1
            for rows in self._cache.bound_rows(first_row, num_rows):
                bound = (rows.device, 0, rows.dtype, rows.shape, rows.address)
                binding.bind_input(f"past_key_values.{rows.name}", *bound)
                for present in present_names(rows.name, num_presents):
                    binding.bind_output(present, *bound)
        return self._bindings[key]


def _cache_of(model: ModelFile, spec: DecoderSpec, num_rows: int, capacity: int) -> KVCache | DeviceKVCache:
    """Keys and values live where the model computes."""
    if model.device is not None:
        try:
            return DeviceKVCache(spec, num_rows=num_rows, capacity=capacity, provider=model.device.provider)
        except Exception as err:
            raise ModelError(f"keys and values do not fit on the device: {_first_line(err)}") from err
    cache_type = model.cache_type or spec.kv_cache_dtype
    return KVCache(spec, num_rows=num_rows, capacity=capacity, cache_type=cache_type)


def _first_line(err: Exception) -> str:
    return str(err).strip().splitlines()[0][:300] if str(err).strip() else type(err).__name__
