"""Every matrix of a decoder in each width needed, fitted once to the calibration text; what the schemes choose from.

Kept are the codes, and what each width costs each part: the squared error of its outputs over that text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import MODEL_NAME
from quantize.graph.codec import KERNEL_BITS, Bits, Float32, QuantizedMatrix, from_planes, round_to_nearest
from quantize.precision.gptq import gptq, one_thread, row_errors
from quantize.precision.hessians import hessians
from quantize.precision.parts import parts_of
from quantize.precision.weights import Matrix, matrices_of

HEAD_WIDTHS: tuple[Bits, ...] = (6, 8)  # where a choice is made; 8 else

_ERRORS_NAME = "errors.json"
_HESSIAN_SHARE = 0.6  # of the time


@dataclass(frozen=True, slots=True)
class PartErrors:
    """The squared error of a part's outputs, summed over the calibration text, by width.

    The head's is that of its weights, since only shares are compared.
    """

    by_width: Mapping[Bits, float]

    @property
    def narrowest(self) -> Bits:
        """The fewest bits that the part can have."""
        return min(self.by_width)

    def share(self, bits: Bits) -> float:
        """What a width leaves of the damage of the narrowest."""
        most = self.by_width[self.narrowest]
        return min(1.0, self.by_width[bits] / most) if most > 0 else 1.0


def fit_matrices(
    fused: Path,
    target: Path,
    widths: Sequence[Bits],
    windows: NDArray[np.int64],
    spec: DecoderSpec,
    report: Callable[[float], None],
) -> None:
    """GPTQ in the given widths for every matrix; the head is rounded, and only where there is a width for it."""
    every = matrices_of(ir.load(fused / MODEL_NAME).graph)
    matrices = [matrix for matrix in every if not matrix.is_head]
    inputs = {matrix.input_name: matrix.num_inputs for matrix in matrices}
    errors: dict[str, dict[str, float]] = {}
    if set(HEAD_WIDTHS) <= set(widths):
        errors |= _fit_head(next(matrix for matrix in every if matrix.is_head), target)
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
    path = target / _file_name(matrix, stored.bits)
    planes = [stored.packed().reshape(stored.num_outputs, -1)] if stored.bits in KERNEL_BITS else stored.planes()
    kept: dict[str, Any] = {f"plane_{index}": plane for index, plane in enumerate(planes)}
    np.savez(path, num_inputs=stored.num_inputs, steps=stored.steps, units=stored.units, **kept)


def load_fitted(folder: Path, matrix: str, bits: Bits) -> QuantizedMatrix:
    """One fitted matrix."""
    with np.load(folder / _file_name(matrix, bits)) as arrays:
        num_inputs, packed = int(arrays["num_inputs"]), arrays["plane_0"]
        steps, units = arrays["steps"], arrays["units"]
        codes = packed if bits in KERNEL_BITS else from_planes(packed, arrays["plane_1"], bits)
    if bits == 4:
        codes = np.empty((len(packed), 2 * packed.shape[1]), np.uint8)
        codes[:, 0::2], codes[:, 1::2] = packed & 15, packed >> 4
    return QuantizedMatrix(bits, num_inputs, codes, steps, units)


def load_errors(folder: Path) -> dict[str, PartErrors]:
    """The errors by the parts' names."""
    raw: dict[str, dict[str, float]] = json.loads((folder / _ERRORS_NAME).read_text())
    known: tuple[Bits, ...] = get_args(Bits)
    return {
        name: PartErrors({bits: errors[f"int{bits}"] for bits in known if f"int{bits}" in errors})
        for name, errors in raw.items()
    }


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


def _fit_head(head: Matrix, target: Path) -> dict[str, dict[str, float]]:
    weight = head.weight()
    found = {}
    for bits in HEAD_WIDTHS:
        stored = round_to_nearest(weight, bits)
        found[f"int{bits}"] = float(np.square(stored.dequantized() - weight).sum())
        save_fitted(target, head.name, stored)
    return {head.name: found}


def _file_name(matrix: str, bits: Bits) -> str:
    return f"{matrix.replace('/', '.')}.int{bits}.npz"
