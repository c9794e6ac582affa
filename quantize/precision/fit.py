"""Every matrix of a decoder in int4 and int8, fitted once to the calibration text; what the schemes choose from.

Kept are the codes, and what each width costs each part: the squared error of its outputs over that text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import MODEL_NAME
from quantize.graph.codec import Bits, Float32, QuantizedMatrix
from quantize.precision.gptq import gptq, one_thread, row_errors
from quantize.precision.hessians import hessians
from quantize.precision.parts import parts_of
from quantize.precision.weights import Matrix, matrices_of

_ERRORS_NAME = "errors.json"
_HESSIAN_SHARE = 0.6  # of the time


@dataclass(frozen=True, slots=True)
class PartErrors:
    """The squared error of a part's outputs, summed over the calibration text."""

    int4: float
    int8: float

    @property
    def int8_share(self) -> float:
        """What int8 leaves of the damage of int4."""
        return min(1.0, self.int8 / self.int4) if self.int4 > 0 else 1.0


def fit_matrices(
    fused: Path,
    target: Path,
    widths: Sequence[Bits],
    windows: NDArray[np.int64],
    spec: DecoderSpec,
    report: Callable[[float], None],
) -> None:
    """GPTQ in the given widths for every matrix but the head."""
    matrices = [matrix for matrix in matrices_of(ir.load(fused / MODEL_NAME).graph) if not matrix.is_head]
    inputs = {matrix.input_name: matrix.num_inputs for matrix in matrices}
    errors: dict[str, dict[str, float]] = {}
    done = 0
    for group in hessians(fused, inputs, windows, spec, lambda share: report(share * _HESSIAN_SHARE)):
        with one_thread():
            for matrix in [m for m in matrices if m.input_name in group]:
                errors |= _fit_matrix(matrix, group[matrix.input_name], target, widths, spec)
                done += 1
                report(_HESSIAN_SHARE + (1 - _HESSIAN_SHARE) * done / len(matrices))
    (target / _ERRORS_NAME).write_text(json.dumps(errors, sort_keys=True))


def save_fitted(target: Path, matrix: str, stored: QuantizedMatrix) -> None:
    """Keep one matrix, its codes packed as the bundle will hold them."""
    packed = stored.packed().reshape(stored.num_outputs, -1)
    path = target / _file_name(matrix, stored.bits)
    np.savez(path, num_inputs=stored.num_inputs, packed=packed, steps=stored.steps, units=stored.units)


def load_fitted(folder: Path, matrix: str, bits: Bits) -> QuantizedMatrix:
    """One fitted matrix."""
    with np.load(folder / _file_name(matrix, bits)) as arrays:
        num_inputs, packed = int(arrays["num_inputs"]), arrays["packed"]
        steps, units = arrays["steps"], arrays["units"]
    codes = packed
    if bits == 4:
        codes = np.empty((len(packed), 2 * packed.shape[1]), np.uint8)
        codes[:, 0::2], codes[:, 1::2] = packed & 15, packed >> 4
    return QuantizedMatrix(bits, num_inputs, codes, steps, units)


def load_errors(folder: Path) -> dict[str, PartErrors]:
    """The errors by the parts' names."""
    raw: dict[str, dict[str, float]] = json.loads((folder / _ERRORS_NAME).read_text())
    return {name: PartErrors(**errors) for name, errors in raw.items()}


def _fit_matrix(
    matrix: Matrix, hessian: Float32, target: Path, widths: Sequence[Bits], spec: DecoderSpec
) -> dict[str, dict[str, float]]:
    weight = matrix.weight()
    by_row = {}
    for bits in widths:
        stored = gptq(weight, hessian, bits)
        by_row[f"int{bits}"] = row_errors(weight, stored, hessian)
        save_fitted(target, matrix.name, stored)
    return {
        part.name: {scheme: float(rows[part.rows].sum()) for scheme, rows in by_row.items()}
        for part in parts_of(matrix, spec)
    }


def _file_name(matrix: str, bits: Bits) -> str:
    return f"{matrix.replace('/', '.')}.int{bits}.npz"
