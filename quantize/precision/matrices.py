"""The matrices of a fused decoder, replaced by MatMulNBits; embedding and head share one table if they are tied.

The matrices of all experts of a layer are one, that of an expert being some of its rows, and become those of QMoE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.errors import QuantizeError
from quantize.graph import nbits
from quantize.graph.codec import BLOCK, KERNEL_BITS, Bits, QuantizedMatrix, round_to_nearest
from quantize.graph.edit import Editor, constant_of, gives_logits, refuse, replace_value
from quantize.graph.factors import matrix_name

HEAD = "lm_head"
_TABLE, _PER_LAYER = "embed", "embed_per_layer"
_ROWS = 4096  # that are compared at a time
_FLOAT_BYTES = 4
_HALF_A_STEP = 0.5 / 127  # of int8, as a share of a block's largest magnitude
_EXPERTS = "MoE"
EXPERT_PLACES = {"up": 2, "down": 4}  # the inputs of experts, by the names of their matrices
_NUM_QKV = 3  # GroupQueryAttention takes queries, keys and values joined, or as three inputs


@dataclass(frozen=True, slots=True)
class Matrix:
    """A product with a constant (K, N) in a fused decoder; named like "layers.0/mlp/up_proj", or "lm_head".

    `place` is the constant's among the inputs. The constant of experts is (experts, N of each, K).
    """

    node: ir.Node
    name: str
    place: int = 1

    @property
    def is_head(self) -> bool:
        """True for the product that gives the logits."""
        return bool(self.name == HEAD)

    @property
    def is_experts(self) -> bool:
        """True for the matrices of all experts of a layer, one below the other."""
        return bool(self.node.op_type == _EXPERTS)

    @property
    def input_name(self) -> str:
        """The name of the value whose rows are multiplied."""
        name: str = self.node.inputs[0].name
        return name

    @property
    def num_inputs(self) -> int:
        """The number of inputs, K."""
        return int(self._shape[-1 if self.is_experts else 0])

    @property
    def num_outputs(self) -> int:
        """The number of outputs, N; of all experts together."""
        return int(self._shape[0] * self._shape[1]) if self.is_experts else int(self._shape[1])

    @property
    def num_experts(self) -> int:
        """The number of experts, 1 for a product without."""
        return int(self._shape[0]) if self.is_experts else 1

    def weight(self) -> NDArray[np.float32]:
        """Return a copy of the weights (N, K) in float32; the memory of the mapped file is given back."""
        copy = np.array(self.view(), np.float32, order="C")
        tensor = self.node.inputs[self.place].const_value
        if isinstance(tensor, ir.ExternalTensor):
            tensor.release()
        return copy

    def view(self) -> NDArray[np.float32]:
        """Return the weights (N, K) where they lie, in a file that is mapped."""
        array = constant_of(self.node.inputs[self.place])
        if array is None:
            raise refuse(self.node, "its weight is not a constant")
        return array.reshape(-1, array.shape[-1]) if self.is_experts else array.T

    @property
    def _shape(self) -> ir.Shape:
        return self.node.inputs[self.place].shape


def matrices_of(graph: ir.Graph) -> list[Matrix]:
    """Find all products with a constant matrix, in the order in which they run."""
    found = []
    for node in graph:
        if node.op_type == _EXPERTS:
            path = matrix_name(node.name).removesuffix(f"/{_EXPERTS}")
            found += [Matrix(node, f"{path}/{name}", place) for name, place in EXPERT_PLACES.items()]
        if node.op_type != "MatMul" or constant_of(node.inputs[1]) is None:
            continue
        found.append(Matrix(node, HEAD if gives_logits(node) else matrix_name(node.name)))
    return found


def plain_products(graph: ir.Graph) -> list[Matrix]:
    """Find the products whose inputs are a value of the graph: all but those of experts, and but the head."""
    return [matrix for matrix in matrices_of(graph) if not (matrix.is_experts or matrix.is_head)]


def quantize_graph(
    model: ir.Model,
    quantize: Callable[[Matrix], Sequence[QuantizedMatrix]],
    *,
    per_layer_bits: Bits = 8,
    tiled: bool = False,
) -> dict[str, str]:
    """Replace every matrix and the embedding in place; return the tensors that share bytes, for `save_graph`.

    `quantize` gives one piece, or several whose outputs follow one another. The head is one piece, and so is the
    embedding. A table of per-layer embeddings is rounded to `per_layer_bits`. `tiled`: as nbits.product has it.
    """
    edit = Editor(model.graph)
    gather, *others = _lookups(model.graph) or [None]
    table = _table_of(gather)
    assert gather is not None
    for other in others:
        _round_table(edit, _PER_LAYER, other, _table_of(other), per_layer_bits)
    shared: dict[str, str] = {}
    experts: dict[ir.Node, list[tuple[Matrix, QuantizedMatrix]]] = {}
    for matrix in matrices_of(model.graph):
        pieces = quantize(matrix)
        if matrix.is_experts:
            experts.setdefault(matrix.node, []).append((matrix, pieces[0]))
            continue
        product, by_block = _replace_product(edit, matrix, pieces, tiled=tiled)
        if matrix.is_head and _are_copies(matrix.view(), table):
            rows = nbits.rows_of(edit, _TABLE, pieces[0], nbits.codes_of(product), gather)
            _replace_gather(edit, _TABLE, gather, rows, by_block, pieces[0])
            shared[f"{_TABLE}.codes"] = f"{matrix.name}.codes"
        matrix.node.graph.remove(matrix.node, safe=True)
    for node, stored in experts.items():
        _replace_experts(edit, node, stored)
    if not shared:
        _round_table(edit, _TABLE, gather, table, 8)
    else:
        model.graph.remove(gather, safe=True)
    _drop_unused_initializers(model.graph)
    return shared


def table_scale_bytes(graph: ir.Graph) -> int:
    """Return the memory beyond the file of the scales of per-layer embeddings, which are floats once loaded.

    `graph` is the float form. An embedding alone is small beside the rest of its model.
    """
    tables = [node.inputs[0].shape for node in _lookups(graph)[1:]]
    return sum((_FLOAT_BYTES - 1) * int(shape[0]) * int(shape[1]) // BLOCK for shape in tables)


def _lookups(graph: ir.Graph) -> list[ir.Node]:
    """Return the lookups of tokens in tables, that of the embedding first."""
    return [node for node in graph if node.op_type == "Gather" and node.inputs[1].name == "input_ids"]


def _table_of(gather: ir.Node | None) -> NDArray[Any]:
    """Return the table that is looked up with the tokens."""
    table = constant_of(gather.inputs[0]) if gather is not None else None
    if table is None:
        raise refuse(gather, "no embedding table is looked up with input_ids")
    if table.shape[1] % BLOCK:
        raise refuse(gather, f"the embedding has {table.shape[1]} columns, which blocks of {BLOCK} do not divide")
    return table


def _round_table(edit: Editor, name: str, gather: ir.Node, table: NDArray[Any], bits: Bits) -> None:
    """Replace a lookup in a table of floats by one in rounded rows."""
    stored = round_to_nearest(table, bits)
    rows = nbits.rows_of(edit, name, stored, None, gather)
    _replace_gather(edit, name, gather, rows, nbits.scales(edit, name, stored, gather), stored)
    edit.graph.remove(gather, safe=True)


def _are_copies(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Tell if two tables (N, K) are one but for rounding: no number differs by more than int8 codes round it.

    Some checkpoints hold both, one of them in a type of fewer bits. A part of each is in memory at a time.
    """
    return first.shape == second.shape and all(
        _is_rounding(first[at : at + _ROWS], second[at : at + _ROWS]) for at in range(0, len(first), _ROWS)
    )


def _is_rounding(first: NDArray[Any], second: NDArray[Any]) -> bool:
    if np.array_equal(first, second):
        return True
    difference, size = (np.abs(part).reshape(len(first), -1, BLOCK).max(axis=2) for part in (first - second, first))
    return bool((difference <= size * _HALF_A_STEP).all())


def _replace_product(
    edit: Editor, matrix: Matrix, pieces: Sequence[QuantizedMatrix], *, tiled: bool
) -> tuple[ir.Value, ir.Value]:
    node = matrix.node
    output = f"{node.outputs[0].name}/nbits"
    outputs: list[ir.Value] = []
    for index, stored in enumerate(pieces):
        suffix = f".{index}" if len(pieces) > 1 else ""
        value, by_block = nbits.product(
            edit, node.inputs[0], stored, f"{matrix.name}{suffix}", f"{output}{suffix}", node, tiled=tiled
        )
        outputs.append(value)
    if len(outputs) == 1 or not _read_apart(node.outputs[0], outputs):
        joined = outputs[0] if len(outputs) == 1 else edit.node("Concat", outputs, output, before=node, axis=-1)
        _take_over(node.outputs[0], joined)
    return outputs[-1], by_block


def _replace_experts(edit: Editor, node: ir.Node, stored: Sequence[tuple[Matrix, QuantizedMatrix]]) -> None:
    widths = {matrix.name: quantized.bits for matrix, quantized in stored}
    if len(set(widths.values())) > 1:
        listed = " and ".join(f"{name} in {bits} bits" for name, bits in widths.items())
        raise QuantizeError(f"{listed}: all matrices of a layer's experts have one width")
    (first, up), (_, down) = stored
    if up.bits not in KERNEL_BITS:
        raise QuantizeError(f"{first.name} in {up.bits} bits: experts have 4 or 8")
    count = first.num_experts
    weights = [nbits.expert_weights(edit, quantized, count, matrix.name, node) for matrix, quantized in stored]
    output = nbits.experts(edit, node, *weights, bits=up.bits)
    assert down.bits == up.bits
    _take_over(node.outputs[0], output)
    node.graph.remove(node, safe=True)


def _read_apart(product: ir.Value, pieces: Sequence[ir.Value]) -> bool:
    """Pass the pieces to the one node that takes the product apart anyway, and tell if there is such a node."""
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


def _replace_gather(
    edit: Editor, name: str, gather: ir.Node, table: ir.Value, by_block: ir.Value, stored: QuantizedMatrix
) -> None:
    rows = nbits.lookup(edit, table, gather.inputs[1], by_block, stored, f"{name}.rows", gather)
    replace_value(gather.outputs[0], rows)


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Move the name of `old`, its readers and its place among the outputs to `new`."""
    name, new.type, new.shape = old.name, old.type, old.shape
    replace_value(old, new)
    old.name, new.name = f"{name}/float", name


def _drop_unused_initializers(graph: ir.Graph) -> None:
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
    graph.sort()
