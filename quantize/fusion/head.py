"""The product that gives the logits; a factor behind it moves into the norm before it, so that it costs nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantize.graph.edit import Editor, computed_input, constant_of, only_user, refuse, scalar_of, source_of

_WEIGHT_INPUTS = {"SimplifiedLayerNormalization": 1, "SkipSimplifiedLayerNormalization": 2}


def unscaled_head(edit: Editor, logits: ir.Value) -> ir.Node:
    """Make the product itself the output `logits`, and return it.

    Raises:
        QuantizeError: naming the node that is neither a product nor a factor.
    """
    last = source_of(logits, "MatMul", "Mul", "Div")
    if last.op_type == "MatMul":
        return last
    factor = scalar_of(last)
    if factor is None or (last.op_type == "Div" and constant_of(last.inputs[1]) is None):
        raise refuse(last, "expected the logits to be scaled by a constant")
    head = source_of(computed_input(last), "MatMul")
    _scale_norm(edit, source_of(head.inputs[0], *_WEIGHT_INPUTS), 1 / factor if last.op_type == "Div" else factor)
    outputs, name, product = edit.graph.outputs, logits.name, head.outputs[0]
    logits.name = f"{name}/exported"
    product.name, product.type = name, logits.type
    outputs[outputs.index(logits)] = product
    return head


def _scale_norm(edit: Editor, norm: ir.Node, factor: float) -> None:
    only_user(norm)  # nothing else may read the scaled value
    at = _WEIGHT_INPUTS[norm.op_type]
    weight = constant_of(norm.inputs[at])
    if weight is None:
        raise refuse(norm, "the norm's weight is not a constant")
    scaled = np.asarray(weight * np.float32(factor), np.float32)
    norm.replace_input_with(at, edit.constant(f"{norm.inputs[at].name}/scaled", scaled))
