"""A decoder's file in mixed precision: every fitted part in the width of an allocation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import MODEL_NAME
from quantize.graph.codec import KERNEL_BITS, QuantizedMatrix, round_to_nearest
from quantize.graph.factors import Factors
from quantize.graph.files import save_graph
from quantize.graph.tiles import FOLDING_BYTES
from quantize.precision.fitted import load_fitted
from quantize.precision.matrices import Matrix, matrices_of, quantize_graph
from quantize.precision.parts import Part, Patterns, Widths, parts_of, pieces_of

_GATES = ("*/in_proj_ba", "*/self_attn/gate_proj", "*/mlp/gate", "*/feed_forward/gate", "*/router/layer")


def decoder_parts(fused: Path, spec: DecoderSpec, *, with_head: bool = False) -> list[Part]:
    """Return all parts that have a width of their own, in the order in which they run."""
    matrices = [m for m in matrices_of(ir.load(fused / MODEL_NAME).graph) if with_head or not m.is_head]
    return [part for matrix in matrices for part in parts_of(matrix, spec)]


def widths_by_pattern(parts: Sequence[Part], patterns: Patterns) -> Widths:
    """Give each part the largest width of which a pattern names it, the gates int8, and all others int4.

    Gates are one row for each head, which multiplies a whole head or stays in a state for as long as it remembers, and
    one row for each expert, which chooses all that a token gets of the layer.
    """
    every: Patterns = {**patterns, 8: (*patterns.get(8, ()), *_GATES)}
    wide = sorted(every, reverse=True)
    return {part.name: next((bits for bits in wide if part.matches(every[bits])), 4) for part in parts}


def unpacked_bytes(parts: Sequence[Part], widths: Widths) -> tuple[int, int]:
    """Return the bytes that 5 and 6 bits take as 8 beyond the file, and those that devices of 0.1.0 need at load."""
    kept = passing = 0
    for part in parts:
        bits = widths.get(part.name, 8)
        passing += FOLDING_BYTES[bits] * part.num_codes
        if bits not in KERNEL_BITS:
            kept += part.size_bytes(8) - part.size_bytes(bits)
    return kept, passing


def write_mixed(
    fused: Path,
    fit: Path,
    target: Path,
    spec: DecoderSpec,
    widths: Widths,
    *,
    smoothed: Path | None = None,
    head: Path | None = None,
    tiled: bool = False,
) -> None:
    """Write each part in its width; a head that has none is rounded to int8, one of the folder `head` comes from there.

    `smoothed` is the folder with the factors of the fit. `tiled`: in the order in which Lantern's kernels read.
    """

    def quantize(matrix: Matrix) -> Sequence[QuantizedMatrix]:
        if matrix.is_head and matrix.name not in widths:
            return [round_to_nearest(matrix.view(), 8)]
        folder = head if matrix.is_head and head is not None else fit
        parts = parts_of(matrix, spec)
        stored = {bits: load_fitted(folder, matrix.name, bits) for bits in {widths[part.name] for part in parts}}
        return pieces_of(parts, widths, stored)

    model = Factors.load(smoothed).load_graph(fused)
    narrowest = min(widths.values(), default=8)
    shared = quantize_graph(model, quantize, per_layer_bits=4 if narrowest == 4 else 8, tiled=tiled)
    save_graph(model, target, shared)
