"""The states of recurrent layers while a draft is verified: what was accepted is replayed, the rest never happened."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnxruntime as ort

from appliance.engine.graphs.replay import NUM_TOKENS, vectors_of
from appliance.engine.runtime.kv_cache import BoundSlots


class DraftStates:
    """The graph that takes up the first tokens of a verify run again; used by the thread of its model."""

    def __init__(self, verify: ort.InferenceSession, replay: ort.InferenceSession) -> None:
        self._vectors = vectors_of([output.name for output in verify.get_outputs()])
        self._replay = replay

    def watch(self, verify: ort.IOBinding) -> None:
        """Have the runs of a binding tell what the recurrent layers read; before any other output is bound."""
        for name in self._vectors:
            verify.bind_output(name, "cpu")

    def replay(self, verified: ort.IOBinding, states: Iterable[BoundSlots], num_tokens: int) -> None:
        """Advance the state of a slot by the first tokens of the binding's last run."""
        binding = self._replay.io_binding()
        for state in states:
            bound = (state.device, 0, state.dtype, state.shape, state.address)
            binding.bind_input(state.past, *bound)
            binding.bind_output(state.present, *bound)
        for name, value in zip(self._vectors, verified.get_outputs(), strict=False):
            binding.bind_ortvalue_input(name, value)
        count = np.array([num_tokens], np.int64)  # the binding copies it
        binding.bind_cpu_input(NUM_TOKENS, count)
        self._replay.run_with_iobinding(binding)
