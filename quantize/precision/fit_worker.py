"""The matrices behind one value of the float graph, fitted to the rows that it had over the calibration text.

A build runs it in worker processes, and small models in its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import MODEL_NAME
from quantize.graph.codec import Bits, Float32
from quantize.graph.factors import Factors
from quantize.precision.fitted import Errors, save_fitted
from quantize.precision.gptq import Moments, gptq, one_thread
from quantize.precision.matrices import Matrix, matrices_of
from quantize.precision.mixed import widths_by_pattern
from quantize.precision.parts import parts_of
from quantize.precision.workers import Message, serve

_CHUNK = 2048  # rows of one product
_PANEL = 512  # columns of one product; those before it follow from symmetry


def start(setup: Message) -> Callable[[Message], Message]:
    """Open the float graph, and return the function that fits the matrices behind one value."""
    matrices = [m for m in matrices_of(ir.load(Path(setup["fused"]) / MODEL_NAME).graph) if not m.is_head]
    spec, widths = DecoderSpec.model_validate(setup["spec"]), tuple(setup["widths"])
    target, int8 = Path(setup["target"]), setup["int8"]
    factors = Factors() if setup["smoothed"] is None else Factors.load(Path(setup["smoothed"]))

    def run(task: Message) -> Message:
        rows = np.memmap(task["rows"], np.float32, "c").reshape(-1, task["width"])
        errors: Errors = {}
        with one_thread():
            moments = Moments.of(second_moments(rows))
            del rows  # whose pages count as memory of this process
            for matrix in [m for m in matrices if m.input_name == task["value"]]:
                needed = widths if int8 is None else _decided(matrix, int8, spec)
                weight = factors.apply(matrix.name, matrix.weight())
                errors |= _fit_matrix(matrix, weight, moments, target, needed, spec)
        return {"value": task["value"], "errors": errors}

    return run


def second_moments(rows: Float32) -> Float32:
    """Return the sum of x x^T (K, K) over rows x (T, K)."""
    width = rows.shape[1]
    total = torch.zeros(width, width)
    for first in range(0, len(rows), _CHUNK):
        chunk = torch.from_numpy(np.asarray(rows[first : first + _CHUNK]))
        for at in range(0, width, _PANEL):
            total[at : at + _PANEL, at:].addmm_(chunk[:, at : at + _PANEL].T, chunk[:, at:])
    upper = total.triu_()
    moments: Float32 = (upper + upper.triu(1).T).numpy()
    return moments


def _decided(matrix: Matrix, int8: Sequence[str], spec: DecoderSpec) -> list[Bits]:
    """Return the widths that the parts of a matrix will have."""
    return sorted(set(widths_by_pattern(parts_of(matrix, spec), int8).values()))


def _fit_matrix(
    matrix: Matrix, weight: Float32, moments: Moments, target: Path, widths: Sequence[Bits], spec: DecoderSpec
) -> Errors:
    by_row = {}
    for bits in widths:
        fit = gptq(weight, moments, bits)
        by_row[f"int{bits}"] = fit.errors
        save_fitted(target, matrix.name, fit.stored)
    return {
        part.name: {scheme: float(rows[part.rows].sum()) for scheme, rows in by_row.items()}
        for part in parts_of(matrix, spec)
    }


if __name__ == "__main__":
    serve(start)
