"""The schemes: int8 rounds every matrix to the nearest code; int4 fits most matrices to calibration text with GPTQ."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import MODEL_NAME
from quantize.codec import QuantizedMatrix, round_to_nearest
from quantize.gptq import gptq, one_thread
from quantize.graph_io import save_graph
from quantize.hessians import hessians
from quantize.recipe import WeightsPart
from quantize.weights import Matrix, matrices_of, quantize_graph

Report = Callable[[float], None]

_HESSIAN_SHARE = 0.6  # of the time that int4 takes


def quantize_to_int8(fused: Path, target: Path) -> None:
    """Every matrix in int8, by rounding."""
    _write(fused, target, {})


def quantize_to_int4(
    fused: Path, target: Path, part: WeightsPart, windows: NDArray[np.int64], spec: DecoderSpec, report: Report
) -> None:
    """GPTQ int4, except for the head and for what the recipe names, which are rounded to int8."""
    fitted = [matrix for matrix in matrices_of(ir.load(fused / MODEL_NAME).graph) if not _is_int8(matrix, part)]
    _write(fused, target, _fit(fused, fitted, windows, spec, report))


def _is_int8(matrix: Matrix, part: WeightsPart) -> bool:
    return matrix.is_head or any(fnmatchcase(matrix.name, pattern) for pattern in part.int8)


def _fit(
    fused: Path, matrices: list[Matrix], windows: NDArray[np.int64], spec: DecoderSpec, report: Report
) -> dict[str, QuantizedMatrix]:
    widths = {matrix.input_name: matrix.num_inputs for matrix in matrices}
    stored: dict[str, QuantizedMatrix] = {}
    for group in hessians(fused, widths, windows, spec, lambda done: report(done * _HESSIAN_SHARE)):
        with one_thread():
            for matrix in [m for m in matrices if m.input_name in group]:
                stored[matrix.name] = gptq(matrix.weight(), group[matrix.input_name], 4)
                report(_HESSIAN_SHARE + (1 - _HESSIAN_SHARE) * len(stored) / len(matrices))
    return stored


def _write(fused: Path, target: Path, fitted: dict[str, QuantizedMatrix]) -> None:
    model = ir.load(fused / MODEL_NAME)
    shared = quantize_graph(model, lambda matrix: fitted.get(matrix.name) or round_to_nearest(matrix.weight(), 8))
    save_graph(model, target, shared)
