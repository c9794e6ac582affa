"""A graph with a head and the table that is the same matrix, as lantern-quantize writes it, in tiles or not."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from quantize.graph import nbits
from quantize.graph.codec import QuantizedMatrix
from quantize.graph.edit import MICROSOFT, Editor, new_input
from quantize.graph.files import save_graph


def write_head(folder: Path, stored: QuantizedMatrix, *, tiled: bool, with_table: bool = True) -> Path:
    """Write a graph from x (S, K) and ids (S,) to the head's y, the same ids, and the rows of the same table."""
    folder.mkdir()
    x, ids = new_input("x", ir.DataType.FLOAT, ["S", stored.num_inputs]), new_input("ids", ir.DataType.INT64, ["S"])
    graph = ir.Graph([x, ids], [], nodes=[], opset_imports={"": 21, MICROSOFT: 1}, name="head")
    edit = Editor(graph)
    y, by_block = nbits.product(edit, x, stored, "head", "y", None, tiled=tiled)
    outputs = [y, edit.node("Identity", [ids], "same_ids")]
    if with_table:
        rows = nbits.rows_of(edit, "embed", stored, nbits.codes_of(y), y.producer())
        outputs.append(nbits.lookup(edit, rows, ids, by_block, stored, "rows"))
    for value in outputs:
        value.type = ir.TensorType(ir.DataType.INT64 if value.name == "same_ids" else ir.DataType.FLOAT)
        graph.outputs.append(value)
    graph.sort()
    save_graph(ir.Model(graph, ir_version=10), folder, {"embed.codes": "head.codes"})
    return folder / "model.onnx"
