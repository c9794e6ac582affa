"""The fusion of products of the same rows: fewer, larger products keep the threads busy."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantize.graph.edit import Editor, constant_of, replace_value

_NUM_HALVES = 2
_MAX_STEPS_TO_SHAPE = 6


def fuse_gate_up(edit: Editor) -> int:
    """Merge each pair of gate and up projections into one product and a split, and count the pairs."""
    count = 0
    for gate in list(edit.graph):
        up = _partner(gate)
        if up is None:
            continue
        weights = [constant_of(node.inputs[1]) for node in (gate, up)]
        name = gate.name.replace("gate_proj", "gate_up_proj")
        joined = np.concatenate([weight for weight in weights if weight is not None], axis=1)
        weight = edit.constant(f"{name}/weight", joined)
        product = edit.nodes("MatMul", [gate.inputs[0], weight], [f"{name}/out"], name=name, before=gate)
        sizes = edit.constant(f"halves_{joined.shape[1]}", np.array([joined.shape[1] // 2] * 2, np.int64))
        split = edit.nodes(
            "Split", [product[0], sizes], [f"{name}/gate", f"{name}/up"], attributes={"axis": -1}, before=gate
        )
        replace_value(gate.outputs[0], split[0])
        replace_value(up.outputs[0], split[1])
        count += 1
    return count


def split_halves(edit: Editor) -> int:
    """Split each product of gate and up at its known half instead of the computed one, and count the splits."""
    count = 0
    for product in list(edit.graph):
        weight = constant_of(product.inputs[1]) if product.op_type == "MatMul" else None
        halves = None if weight is None else _halves(product)
        if weight is None or halves is None or weight.shape[1] % _NUM_HALVES:
            continue
        half = weight.shape[1] // 2
        sizes = edit.constant(f"halves_{2 * half}", np.array([half] * 2, np.int64))
        split = edit.nodes(
            "Split",
            [product.outputs[0], sizes],
            [f"{product.name}/first", f"{product.name}/second"],
            attributes={"axis": -1},
            before=halves[0],
        )
        for old, new in zip(halves, split, strict=True):
            replace_value(old.outputs[0], new)
        count += 1
    return count


def _halves(product: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """Find the two slices of a product's last axis that meet in its middle."""
    slices = [use.node for use in product.outputs[0].uses() if use.node.op_type == "Slice" and use.idx == 0]
    if len(slices) != _NUM_HALVES:
        return None
    first, second = sorted(slices, key=lambda node: constant_of(node.inputs[1]) is None)
    start, axes = constant_of(first.inputs[1]), [constant_of(node.inputs[3]) for node in slices]
    if start is None or start.any() or any(axis is None or axis.tolist() != [-1] for axis in axes):
        return None
    return (first, second) if first.inputs[2] is second.inputs[1] and _is_half(first.inputs[2], product) else None


def _is_half(value: ir.Value | None, product: ir.Node) -> bool:
    """Tell if a number is computed as half of the product's width, rounded up, as torch's chunk does."""
    divided = False
    for _ in range(_MAX_STEPS_TO_SHAPE):
        node = None if value is None else value.producer()
        if node is None or node.op_type == "Shape":
            return divided and node is not None and node.inputs[0] is product.outputs[0]
        if node.op_type == "Div":
            divisor = constant_of(node.inputs[1])
            divided = divisor is not None and divisor.tolist() in ([2], 2)
        value = node.inputs[0]
    return False


def _partner(gate: ir.Node) -> ir.Node | None:
    if gate.op_type != "MatMul" or "gate_proj" not in gate.name or constant_of(gate.inputs[1]) is None:
        return None
    for use in gate.inputs[0].uses():
        node: ir.Node = use.node
        if node.op_type == "MatMul" and "up_proj" in node.name and constant_of(node.inputs[1]) is not None:
            return node
    return None
