"""A decoder's file from an allocation: every part in the width that was chosen for it, as it was fitted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import MODEL_NAME
from quantize.graph.codec import Bits, QuantizedMatrix, round_to_nearest
from quantize.graph.files import save_graph
from quantize.precision.fit import load_fitted
from quantize.precision.parts import Part, parts_of, pieces_of
from quantize.precision.weights import Matrix, matrices_of, quantize_graph


def decoder_parts(fused: Path, spec: DecoderSpec) -> list[Part]:
    """All that can be int4 or int8, in the order in which it runs; the head is always int8."""
    matrices = [matrix for matrix in matrices_of(ir.load(fused / MODEL_NAME).graph) if not matrix.is_head]
    return [part for matrix in matrices for part in parts_of(matrix, spec)]


def write_mixed(smoothed: Path, fit: Path, target: Path, spec: DecoderSpec, int8: Sequence[str]) -> None:
    """int4, except for the parts that a pattern of `int8` names; the head is rounded to int8."""

    def quantize(matrix: Matrix) -> Sequence[QuantizedMatrix]:
        if matrix.is_head:
            return [round_to_nearest(matrix.weight(), 8)]
        parts = parts_of(matrix, spec)
        is_int8 = {part.name: part.matches(int8) for part in parts}
        stored: dict[Bits, QuantizedMatrix] = {}
        if any(is_int8.values()):
            stored[8] = load_fitted(fit, matrix.name, 8)
        if not all(is_int8.values()):
            stored[4] = load_fitted(fit, matrix.name, 4)
        return pieces_of(parts, is_int8, stored)

    model = ir.load(smoothed / MODEL_NAME)
    shared = quantize_graph(model, quantize)
    save_graph(model, target, shared)
