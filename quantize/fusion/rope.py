"""Rotary position embeddings: found in the exported graph, given to the attention operator as two tables.

The tables are nodes over the inverse frequencies, which onnxruntime folds once at load; so the file stays small.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from quantize.graph.edit import Editor, constant_of, refuse, scalar_of, source_of

_MAX_STEPS_TO_TRIG = 6
_NOT_ROTATED = frozenset({"Transpose", "SimplifiedLayerNormalization"})  # what heads come from


class RopeTables:
    """The pairs of cosine and sine tables of one graph; layers with the same frequencies share one."""

    def __init__(self, edit: Editor, num_positions: int, anchor: ir.Node) -> None:
        self._edit = edit
        self._num_positions = num_positions
        self._anchor = anchor
        self._made: dict[str, tuple[ir.Value, ir.Value]] = {}

    def unrotate(self, rotated: ir.Value) -> tuple[ir.Value, tuple[()] | tuple[ir.Value, ir.Value]]:
        """The tensor before its rotation, and the tables that rotate it; none in a layer without positions.

        Raises:
            QuantizeError: the value is not rotated in the form x * cos + half(x) * sin.
        """
        if source_of(rotated).op_type in _NOT_ROTATED:
            return rotated, ()
        total = source_of(rotated, "Add", "Concat")
        if total.op_type == "Concat":  # only the first part of each head turns
            total = source_of(total.inputs[0], "Add")
        terms = [_split(source_of(value, "Mul")) for value in total.inputs]
        straight = next((t for t in terms if t[1].op_type == "Cos"), None)
        if straight is None or len(terms) != 2:
            raise refuse(total, "expected a rotation by cosine and sine")
        x, trig = straight
        before = x.producer()
        if before is not None and before.op_type == "Slice":
            x = before.inputs[0]
        return x, self._tables(trig)

    def _tables(self, trig: ir.Node) -> tuple[ir.Value, ir.Value]:
        frequencies, scale = _frequencies(trig), _scale_after(trig)
        key = f"{frequencies.tobytes().hex()}:{scale}"
        if key not in self._made:
            self._made[key] = self._build(frequencies, scale, f"rope_{len(self._made)}")
        return self._made[key]

    def _build(self, frequencies: NDArray[np.float32], scale: float, name: str) -> tuple[ir.Value, ir.Value]:
        edit, at = self._edit, self._anchor
        zero, one = edit.constant("rope_zero", np.float32(0)), edit.constant("rope_one", np.float32(1))
        limit = edit.constant("rope_positions", np.float32(self._num_positions))
        column = edit.constant("rope_column", np.array([-1, 1], np.int64))
        steps = edit.node("Range", [zero, limit, one], f"{name}/steps", before=at)
        steps = edit.node("Reshape", [steps, column], f"{name}/column", before=at)
        angles = edit.node(
            "Mul", [steps, edit.constant(f"{name}/freq", frequencies[None])], f"{name}/angles", before=at
        )
        tables = []
        for op in ("Cos", "Sin"):
            table = edit.node(op, [angles], f"{name}/{op.lower()}", before=at)
            if scale != 1.0:
                factor = edit.constant(f"{name}/scale", np.float32(scale))
                table = edit.node("Mul", [table, factor], f"{name}/{op.lower()}_scaled", before=at)
            tables.append(table)
        return tables[0], tables[1]


def _split(product: ir.Node) -> tuple[ir.Value, ir.Node]:
    """A product's data and the Cos or Sin node that its other factor comes from."""
    for data, factor in ((0, 1), (1, 0)):
        trig = _trig_of(product.inputs[factor])
        if trig is not None:
            return product.inputs[data], trig
    raise refuse(product, "no cosine or sine is multiplied here; attention without rotary positions is not known")


def _trig_of(value: ir.Value | None) -> ir.Node | None:
    for _ in range(_MAX_STEPS_TO_TRIG):
        node = value.producer() if value is not None else None
        if node is None or node.op_type in {"Cos", "Sin"}:
            return node
        if node.op_type not in {"Unsqueeze", "Cast", "Mul", "Identity"}:
            return None
        value = next((v for v in node.inputs if constant_of(v) is None), None)
    return None


def _frequencies(trig: ir.Node) -> NDArray[np.float32]:
    seen: set[ir.Value] = set()
    todo, found = [trig.inputs[0]], []
    while todo:
        value = todo.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        array = constant_of(value)
        if array is None:
            node = value.producer()
            todo += list(node.inputs) if node is not None else []
        elif array.dtype == np.float32 and array.ndim == 3:
            found.append(array.reshape(-1))
    if len(found) != 1:
        raise refuse(trig, f"{len(found)} tensors of inverse frequencies lead here; dynamic RoPE is not known")
    return found[0]


def _scale_after(trig: ir.Node) -> float:
    for use in trig.outputs[0].uses():
        if use.node.op_type == "Mul":
            return scalar_of(use.node) or 1.0
    return 1.0
