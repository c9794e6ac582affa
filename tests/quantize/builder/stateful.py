"""A decoder's graph run by onnxruntime alone, with all that its layers keep in plain arrays; a row is a slot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.engine.runtime.provider import session_options
from appliance.engine.types import StepPlan

_CACHE = "past_key_values."


class StatefulRunner:
    """The graph with a cache of its own: states begin as zeros where a row has no tokens yet."""

    def __init__(self, model: Path, *, num_slots: int, capacity: int) -> None:
        self._session = ort.InferenceSession(str(model), session_options(1))
        self._kept: dict[str, NDArray[np.float32]] = {}
        for value in self._session.get_inputs():
            if value.name.startswith("past_"):
                rest = (size if isinstance(size, int) else capacity for size in value.shape[1:])
                self._kept[value.name] = np.zeros((num_slots, *rest), np.float32)

    def run(self, plan: StepPlan) -> NDArray[np.float32]:
        """Compute the plan's tokens, and keep what the layers then hold."""
        count, num_new = plan.input_ids.shape
        rows, total = slice(plan.first_slot, plan.first_slot + count), plan.past_lens + np.int32(num_new)
        for name, kept in self._kept.items():
            if not name.startswith(_CACHE):
                kept[rows][plan.past_lens == 0] = 0
        feeds = {
            "input_ids": plan.input_ids,
            "seqlens_k": (total - 1).astype(np.int32),
            "total_sequence_length": np.asarray(total.max(), np.int32),
            "logit_rows": plan.logit_rows,
        }
        presents = [present_of(name) for name in self._kept]
        past = {name: kept[rows] for name, kept in self._kept.items()}
        logits, *present = self._session.run(["logits", *presents], feeds | past)
        for kept, value in zip(self._kept.values(), present, strict=True):
            kept[rows] = value
        found: NDArray[np.float32] = logits
        return found


def present_of(name: str) -> str:
    """Return the output that holds the next value of an input."""
    return name.replace(_CACHE, "present.").replace("past_", "present_")
