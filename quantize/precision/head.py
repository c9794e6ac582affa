"""The head in 4, 5 or 6 bits, fitted by GPTQ to the hidden states of the calibration text.

Each token reads all of it: a fifth of the weights of SmolLM2-135M, a quarter of those of Qwen2.5-0.5B. The fit of all
other matrices leaves it out, since its inputs are rows that a graph gathers for logits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.bundle.manifest import MODEL_NAME
from quantize.evaluation.hidden_states import HiddenStates
from quantize.graph.codec import Bits, join_rows
from quantize.precision.fitted import save_fitted
from quantize.precision.gptq import Moments, gptq, one_thread
from quantize.precision.matrices import HEAD, matrices_of
from quantize.precision.moments import second_moments
from quantize.progress import Progress

_ROWS = 8192  # outputs that are fitted at a time: the head of a large vocabulary would take gigabytes
_FIT_SHARE = 0.5  # of the time


def fit_head(fused: Path, target: Path, windows: NDArray[np.int64], progress: Progress, *, bits: Bits = 4) -> None:
    """Write the head, as `load_fitted` reads it."""
    computing, fitting = progress.part(0.0, 1 - _FIT_SHARE), progress.part(1 - _FIT_SHARE, 1.0)
    states = HiddenStates.of(fused, list(windows), computing).by_text
    head = next(matrix for matrix in matrices_of(ir.load(fused / MODEL_NAME).graph) if matrix.is_head)
    weight, parts = head.view(), []
    with one_thread():
        moments = Moments.of(second_moments(np.ascontiguousarray(np.concatenate(states))))
        for first in range(0, len(weight), _ROWS):
            rows = np.ascontiguousarray(weight[first : first + _ROWS], np.float32)
            parts.append(gptq(rows, moments, bits).stored)
            fitting.advance_to((first + len(rows)) / len(weight))
    save_fitted(target, HEAD, join_rows(parts))
