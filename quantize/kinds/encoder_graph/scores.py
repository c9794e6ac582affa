"""The score of a causal model: the logit of one word at the last token, less that of another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.engine.texts.embedder import PROMPTED_OUTPUT
from quantize.builder.weights import Weights
from quantize.graph.edit import Editor
from quantize.kinds.encoder_graph.body import build_body
from quantize.kinds.encoder_graph.packing import Packing, ints
from quantize.sources.census import EMBEDDING, HEAD
from quantize.sources.decoder_config import DecoderConfig

_ROWS_AT_ONCE = 4096


def build_float_scores(
    tensors: Weights, config: DecoderConfig, target: Path, answers: tuple[int, int], *, num_positions: int
) -> None:
    """Write the float graph: prompted_relevance_logit (B,), of the first answer's token less that of the second's."""
    yes, no = _rows(tensors, answers)

    def finish(edit: Editor, packing: Packing, hidden: ir.Value) -> tuple[ir.Value, list[int | str]]:
        last = packing.last_rows(hidden, "last_token")
        column = edit.node("MatMul", [last, edit.constant("head.answers", (yes - no)[:, None])], "head.difference")
        return edit.node("Squeeze", [column, ints(edit, "last", [-1])], PROMPTED_OUTPUT), ["batch_size"]

    build_body(tensors, config, target, finish, num_positions=num_positions)


def _rows(tensors: Weights, indices: Sequence[int]) -> list[NDArray[np.float32]]:
    """Return some rows (hidden,) of the head, which may be the embedding."""
    wanted: dict[int, NDArray[np.float32]] = {}
    start = 0
    for slab in tensors[HEAD if HEAD in tensors else EMBEDDING].slabs(_ROWS_AT_ONCE):
        wanted |= {at: slab[at - start].copy() for at in indices if start <= at < start + len(slab)}
        start += len(slab)
    return [wanted[at] for at in indices]
