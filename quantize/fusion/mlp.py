"""Products of the same rows become one: fewer, larger products keep the threads busy."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantize.graph.edit import Editor, constant_of, replace_value


def fuse_gate_up(edit: Editor) -> int:
    """Merge each pair of gate and up projections into one product and a split; the count of pairs."""
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


def _partner(gate: ir.Node) -> ir.Node | None:
    if gate.op_type != "MatMul" or "gate_proj" not in gate.name or constant_of(gate.inputs[1]) is None:
        return None
    for use in gate.inputs[0].uses():
        node: ir.Node = use.node
        if node.op_type == "MatMul" and "up_proj" in node.name and constant_of(node.inputs[1]) is not None:
            return node
    return None
