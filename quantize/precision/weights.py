"""The fused decoder's matrices become MatMulNBits; embedding and head share one table where they are tied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from quantize.graph import nbits
from quantize.graph.codec import BLOCK, QuantizedMatrix, round_to_nearest
from quantize.graph.edit import Editor, constant_of, refuse, replace_value

HEAD = "lm_head"
_NUM_QKV = 3  # GroupQueryAttention takes queries, keys and values joined, or as three inputs


@dataclass(frozen=True, slots=True)
class Matrix:
    """A product with a constant (K, N) in a fused decoder; named like "layers.0/mlp/up_proj", or "lm_head"."""

    node: ir.Node
    name: str

    @property
    def is_head(self) -> bool:
        """Whether it gives the logits."""
        return bool(self.name == HEAD)

    @property
    def input_name(self) -> str:
        """The value whose rows are multiplied."""
        name: str = self.node.inputs[0].name
        return name

    @property
    def num_inputs(self) -> int:
        """K."""
        return int(self.node.inputs[1].shape[0])

    @property
    def num_outputs(self) -> int:
        """N."""
        return int(self.node.inputs[1].shape[1])

    def weight(self) -> NDArray[np.float32]:
        """(N, K) float32."""
        array = constant_of(self.node.inputs[1])
        if array is None:
            raise refuse(self.node, "its weight is not a constant")
        return np.ascontiguousarray(array.T, np.float32)


def matrices_of(graph: ir.Graph) -> list[Matrix]:
    """All products with a constant matrix, in the order in which they run."""
    found = []
    for node in graph:
        if node.op_type != "MatMul" or constant_of(node.inputs[1]) is None:
            continue
        name = node.name.removesuffix("/MatMul").lstrip("/").removeprefix("model/")
        found.append(Matrix(node, HEAD if node.outputs[0].name == "logits" else name))
    return found


def quantize_graph(model: ir.Model, quantize: Callable[[Matrix], Sequence[QuantizedMatrix]]) -> dict[str, str]:
    """Replace every matrix and the embedding in place; gives the tensors that share bytes, for `save_graph`.

    `quantize` gives one piece, or several whose outputs follow one another. The head is one piece of 6 or 8
    bits, and so is the embedding.
    """
    edit = Editor(model.graph)
    gather = next((n for n in model.graph if n.op_type == "Gather" and n.inputs[1].name == "input_ids"), None)
    table = constant_of(gather.inputs[0]) if gather is not None else None
    if gather is None or table is None:
        raise refuse(gather, "no embedding table is looked up with input_ids")
    if table.shape[1] % BLOCK:
        raise refuse(gather, f"the embedding has {table.shape[1]} columns, which blocks of {BLOCK} do not divide")
    shared: dict[str, str] = {}
    for matrix in matrices_of(model.graph):
        pieces = quantize(matrix)
        product, by_block = _replace_product(edit, matrix, pieces)
        if matrix.is_head and np.array_equal(matrix.weight(), table):
            table = nbits.rows_of(edit, pieces[0], nbits.codes_of(product), gather)
            _replace_gather(edit, gather, table, by_block)
            shared["embed.codes"] = f"{matrix.name}.codes"
        matrix.node.graph.remove(matrix.node, safe=True)
    if not shared:
        stored = round_to_nearest(np.asarray(table, np.float32), 8)
        table = nbits.rows_of(edit, stored, None, gather)
        _replace_gather(edit, gather, table, nbits.scales(edit, "embed", stored, gather))
    model.graph.remove(gather, safe=True)
    _drop_unused_initializers(model.graph)
    return shared


def _replace_product(edit: Editor, matrix: Matrix, pieces: Sequence[QuantizedMatrix]) -> tuple[ir.Value, ir.Value]:
    node = matrix.node
    output = f"{node.outputs[0].name}/nbits"
    outputs: list[ir.Value] = []
    for index, stored in enumerate(pieces):
        suffix = f".{index}" if len(pieces) > 1 else ""
        value, by_block = nbits.product(
            edit, node.inputs[0], stored, f"{matrix.name}{suffix}", f"{output}{suffix}", node
        )
        outputs.append(value)
    if len(outputs) == 1 or not _read_apart(node.outputs[0], outputs):
        joined = outputs[0] if len(outputs) == 1 else edit.node("Concat", outputs, output, before=node, axis=-1)
        _take_over(node.outputs[0], joined)
    return outputs[-1], by_block


def _read_apart(product: ir.Value, pieces: Sequence[ir.Value]) -> bool:
    """Give the pieces to the one node that takes the product apart anyway; whether there is such a node."""
    uses = list(product.uses())
    if len(uses) != 1:
        return False
    reader = uses[0].node
    if reader.op_type == "GroupQueryAttention" and uses[0].idx == 0 and len(pieces) == _NUM_QKV:
        for at, piece in enumerate(pieces):
            reader.replace_input_with(at, piece)
        return True
    if reader.op_type == "Split" and len(reader.outputs) == len(pieces):
        for old, new in zip(reader.outputs, pieces, strict=True):
            replace_value(old, new)
        reader.graph.remove(reader, safe=True)
        return True
    return False


def _replace_gather(edit: Editor, gather: ir.Node, table: ir.Value, by_block: ir.Value) -> None:
    rows = nbits.lookup(edit, table, gather.inputs[1], by_block, "embed.rows", gather)
    replace_value(gather.outputs[0], rows)


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Let `new` have the name of `old`, its readers, and its place among the outputs."""
    name, new.type, new.shape = old.name, old.type, old.shape
    replace_value(old, new)
    old.name, new.name = f"{name}/float", name


def _drop_unused_initializers(graph: ir.Graph) -> None:
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
    graph.sort()
