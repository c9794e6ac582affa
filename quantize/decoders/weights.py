"""A decoder's file from an allocation: every part in the width that was chosen for it, as it was fitted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import MODEL_NAME
from quantize.graph.codec import KERNEL_BITS, QuantizedMatrix, round_to_nearest
from quantize.graph.files import save_graph
from quantize.precision.fit import load_fitted
from quantize.precision.parts import Part, Widths, parts_of, pieces_of
from quantize.precision.weights import Matrix, matrices_of, quantize_graph

_FORMS_ON_THE_WAY = 10  # of all codes, which onnxruntime holds until it has folded the last


def decoder_parts(fused: Path, spec: DecoderSpec, *, with_head: bool = False) -> list[Part]:
    """All that has a width of its own, in the order in which it runs."""
    matrices = [m for m in matrices_of(ir.load(fused / MODEL_NAME).graph) if with_head or not m.is_head]
    return [part for matrix in matrices for part in parts_of(matrix, spec)]


def widths_by_pattern(parts: Sequence[Part], int8: Sequence[str]) -> Widths:
    """int4, except for the parts that a pattern of `int8` names."""
    return {part.name: 8 if part.matches(int8) else 4 for part in parts}


def unpacked_bytes(parts: Sequence[Part], widths: Widths) -> tuple[int, int]:
    """What loading adds to the file where codes become 8 bits, a head's in two forms; and what that takes meanwhile."""
    kept = codes = 0
    for part in parts:
        bits = widths.get(part.name, 8)
        if bits not in KERNEL_BITS:
            forms = 2 if part.is_head else 1
            kept += part.size_bytes(8) - part.size_bytes(bits) + (forms - 1) * part.num_codes
            codes += part.num_codes
    return kept, _FORMS_ON_THE_WAY * codes


def write_mixed(smoothed: Path, fit: Path, target: Path, spec: DecoderSpec, widths: Widths) -> None:
    """Each part in its width; a head that has none is rounded to int8."""

    def quantize(matrix: Matrix) -> Sequence[QuantizedMatrix]:
        if matrix.is_head and matrix.name not in widths:
            return [round_to_nearest(matrix.weight(), 8)]
        parts = parts_of(matrix, spec)
        stored = {bits: load_fitted(fit, matrix.name, bits) for bits in sorted({widths[part.name] for part in parts})}
        return pieces_of(parts, widths, stored)

    model = ir.load(smoothed / MODEL_NAME)
    shared = quantize_graph(model, quantize)
    save_graph(model, target, shared)
