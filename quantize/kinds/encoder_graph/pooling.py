"""Hidden states of packed tokens as one unit vector for each text."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from quantize.graph.edit import Editor
from quantize.kinds.encoder_graph.packing import Packing
from quantize.sources.sentence import SentenceLayout


def unit_vectors(
    edit: Editor,
    packing: Packing,
    hidden: ir.Value,
    width: int,
    layout: SentenceLayout,
    projection: NDArray[np.float32] | None = None,
) -> ir.Value:
    """Compute sentence_embedding (B, D), of unit length, of hidden states (T, width).

    `projection` (P, width) is the model's own, of each token. Every pooling is linear, so that it may follow here.
    """
    match layout.pooling:
        case "mean":
            pooled = packing.mean_rows(hidden, width, "mean")
        case "cls":
            pooled = packing.first_rows(hidden, "cls")
        case "lasttoken":
            pooled = packing.last_rows(hidden, "last_token")
    if projection is not None:
        pooled = edit.node("MatMul", [pooled, edit.constant("projection.weight", projection.T)], "projection.out")
    for index, dense in enumerate(layout.dense):
        name, offset = f"dense.{index}", dense.offset()
        pooled = edit.node("MatMul", [pooled, edit.constant(f"{name}.weight", dense.matrix().T)], f"{name}.out")
        if offset is not None:
            pooled = edit.node("Add", [pooled, edit.constant(f"{name}.bias", offset)], f"{name}.biased")
        if dense.activation == "tanh":
            pooled = edit.node("Tanh", [pooled], f"{name}.tanh")
    return edit.node("LpNormalization", [pooled], "sentence_embedding", axis=-1, p=2)
