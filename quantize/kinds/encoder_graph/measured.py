"""The inputs of a graph's products over the calibration texts: how large their channels are, and their moments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.engine.runtime.provider import session_options
from quantize.evaluation.runners import runner_threads

Float32 = NDArray[np.float32]
Feeds = dict[str, NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Seen:
    """The inputs of one product: the largest magnitude of each channel (K,), and the sum of x x^T (K, K)."""

    peaks: Float32
    moments: Float32


def add_outputs(model: ir.Model, values: Iterable[ir.Value]) -> list[str]:
    """Make values of a graph outputs, each once; return their names."""
    names = []
    for value in dict.fromkeys(values):
        value.type = ir.TensorType(ir.DataType.FLOAT)
        if value not in model.graph.outputs:
            model.graph.outputs.append(value)
        names.append(str(value.name))
    return names


def inputs_seen(path: Path, names: Sequence[str], feeds: Sequence[Feeds]) -> dict[str, Seen]:
    """Run the float graph of a file over all texts, and measure the named outputs, rows (T, K) each."""
    session = ort.InferenceSession(str(path), session_options(runner_threads()))
    seen: dict[str, Seen] = {}
    for text in feeds:
        for name, rows in zip(names, session.run(names, text), strict=True):
            width = rows.shape[1]
            old = seen.get(name) or Seen(np.zeros(width, np.float32), np.zeros((width, width), np.float32))
            seen[name] = Seen(np.maximum(old.peaks, np.abs(rows).max(axis=0)), old.moments + rows.T @ rows)
    return seen
