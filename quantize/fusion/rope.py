"""Rotary position embeddings of an exported graph: found, held against config.json, and taken off queries and keys."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from quantize.graph.edit import constant_of, refuse, scalar_of, source_of
from quantize.sources.rotations import Rotation

_MAX_STEPS_TO_TRIG = 6
_NOT_ROTATED = frozenset({"Transpose", "SimplifiedLayerNormalization"})  # the sources of heads without rotation
_TOLERANCE = 1e-5  # torch's powers differ from processor to processor in the last bit


def unrotate(rotated: ir.Value, expected: Rotation | None) -> ir.Value:
    """Return the tensor before its rotation, which must be the one that config.json describes.

    Raises:
        QuantizeError: the value is rotated in another form than x * cos + half(x) * sin, or by other angles.
    """
    source = source_of(rotated)
    if source.op_type in _NOT_ROTATED:
        if expected is not None:
            raise refuse(source, "the heads have no rotary positions, but config.json asks for them")
        return rotated
    total = source_of(rotated, "Add", "Concat")
    if expected is None:
        raise refuse(total, "the heads have rotary positions, but config.json asks for none")
    if total.op_type == "Concat":  # only the first part of each head is rotated
        total = source_of(total.inputs[0], "Add")
    terms = [_split(source_of(value, "Mul")) for value in total.inputs]
    straight = next((t for t in terms if t[1].op_type == "Cos"), None)
    if straight is None or len(terms) != 2:
        raise refuse(total, "expected a rotation by cosine and sine")
    x, trig = straight
    _check(trig, expected)
    before = x.producer()
    if before is not None and before.op_type == "Slice":
        x = before.inputs[0]
    return x


def _check(trig: ir.Node, expected: Rotation) -> None:
    frequencies, wanted = _frequencies(trig), expected.array()
    scale = _scale_after(trig)
    same = frequencies.shape == wanted.shape and np.allclose(frequencies, wanted, rtol=_TOLERANCE, atol=0)
    if not same or not np.isclose(scale, expected.scale, rtol=_TOLERANCE, atol=0):
        raise refuse(trig, "its rotary frequencies are not those of config.json")


def _split(product: ir.Node) -> tuple[ir.Value, ir.Node]:
    """Return a product's data and the Cos or Sin node that its other factor comes from."""
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
