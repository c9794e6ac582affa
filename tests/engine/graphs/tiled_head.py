"""A graph with a head in tiles and the table that is the same matrix, as lantern-quantize writes it."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from quantize.graph import nbits
from quantize.graph.codec import QuantizedMatrix
from quantize.graph.edit import MICROSOFT, Editor, new_input
from quantize.graph.files import save_graph


def write_head(folder: Path, stored: QuantizedMatrix, *, tiled: bool) -> Path:
    """Write a graph from x (S, K) and ids (S,) to the head's y and the rows of the same table; in tiles, or not."""
    folder.mkdir()
    x, ids = new_input("x", ir.DataType.FLOAT, ["S", stored.num_inputs]), new_input("ids", ir.DataType.INT64, ["S"])
    graph = ir.Graph([x, ids], [], nodes=[], opset_imports={"": 21, MICROSOFT: 1}, name="head")
    edit = Editor(graph)
    y, by_block = nbits.product(edit, x, stored, "head", "y", None, tiled=tiled)
    rows = nbits.rows_of(edit, "embed", stored, nbits.codes_of(y), y.producer())
    outputs = [y, nbits.lookup(edit, rows, ids, by_block, stored, "rows")]
    for value in outputs:
        value.type = ir.TensorType(ir.DataType.FLOAT)
        graph.outputs.append(value)
    graph.sort()
    save_graph(ir.Model(graph, ir_version=10), folder, {"embed.codes": "head.codes"})
    return folder / "model.onnx"
