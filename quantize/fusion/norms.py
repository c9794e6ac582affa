"""The fusion of RMS norms, which are exported as small operators, with the residual sum in front of them."""

from __future__ import annotations

import onnx_ir as ir

from quantize.graph.edit import MICROSOFT, TRANSPARENT, Editor, constant_of, only_user, refuse, replace_value, scalar_of

_NORM = "SimplifiedLayerNormalization"
_BETWEEN = frozenset({"Sqrt", "Div", "Reciprocal", "Cast", "Mul"})


def fuse_norms(edit: Editor) -> int:
    """Replace x / sqrt(mean(x^2) + eps) * weight everywhere, and count the norms."""
    count = 0
    for mean in list(edit.graph):
        power = mean.inputs[0].producer() if mean.op_type == "ReduceMean" else None
        if power is None or power.op_type != "Pow":
            continue
        _fuse_norm(edit, mean, _skip_casts(power.inputs[0]))
        count += 1
    return count


def fuse_skips(edit: Editor) -> int:
    """Merge the residual sum in front of each norm into it, and count the sums."""
    count = 0
    for norm in list(edit.graph):
        if norm.op_type != _NORM:
            continue
        add = _skip_casts(norm.inputs[0]).producer()
        if add is None or add.op_type != "Add" or any(constant_of(value) is not None for value in add.inputs):
            continue
        name = norm.name.replace("RMSNorm", "SkipRMSNorm")
        outputs = edit.nodes(
            f"Skip{_NORM}",
            [add.inputs[0], add.inputs[1], norm.inputs[1]],
            [f"{name}/out", "", "", f"{name}/sum"],
            name=name,
            attributes={"epsilon": norm.attributes["epsilon"].as_float()},
            domain=MICROSOFT,
            before=add,
        )
        replace_value(add.outputs[0], outputs[3])
        replace_value(norm.outputs[0], outputs[0])
        count += 1
    return count


def _fuse_norm(edit: Editor, mean: ir.Node, x: ir.Value) -> None:
    add = only_user(mean)
    epsilon = scalar_of(add)
    if add.op_type != "Add" or epsilon is None:
        raise refuse(add, "expected the epsilon of an RMS norm")
    node, weight = only_user(add), None
    while weight is None:
        if node.op_type not in _BETWEEN:
            raise refuse(node, "it does not belong to an RMS norm")
        weight = _vector_input(node)
        if weight is None:
            node = only_user(node)
    array = constant_of(weight)
    if array is None:
        raise refuse(node, "the norm's weight is not a constant")
    name = mean.name.replace("/ReduceMean", "/RMSNorm")
    norm = edit.nodes(
        _NORM,
        [x, edit.constant(f"{name}/weight", array)],
        [f"{name}/out"],
        name=name,
        attributes={"axis": -1, "epsilon": epsilon, "stash_type": 1},
        before=node,
    )
    replace_value(node.outputs[0], norm[0])


def _vector_input(node: ir.Node) -> ir.Value | None:
    if node.op_type != "Mul":
        return None
    for value in node.inputs:
        array = constant_of(value)
        if array is not None and array.ndim == 1 and array.size > 1:
            return value
    return None


def _skip_casts(value: ir.Value) -> ir.Value:
    while (node := value.producer()) is not None and node.op_type in TRANSPARENT:
        value = node.inputs[0]
    return value
