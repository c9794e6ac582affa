"""LFM2's gated short convolution: out(C * conv(B * x)), each channel over its last few tokens.

The state of a layer is the columns (B, channels, kernel - 1) that the convolution still sees.
"""

from __future__ import annotations

import onnx_ir as ir

from quantize.builder.parts import Mixed, Parts, StepValues, path_of
from quantize.builder.weights import whole
from quantize.graph.edit import MICROSOFT


def short_conv(parts: Parts, x: ir.Value, layer: int, step: StepValues) -> Mixed:
    """Return the mixer's output, and the columns that its layer then keeps."""
    name = f"model.layers.{layer}.conv"
    path, edit, width = path_of(name), parts.edit, parts.config.hidden_size
    outputs = [f"{path}/{part}" for part in ("before", "after", "x")]
    before, after, value = parts.split(parts.product(x, [f"{name}.in_proj"]), [width] * 3, outputs, f"thirds_{width}")
    gated = edit.node("Mul", [before, value], f"{path}/gated")
    mixed, present = convolution(parts, gated, f"{name}.conv", layer, step)
    product = edit.node("Mul", [after, mixed], f"{path}/Mul")
    return Mixed(parts.product(product, [f"{name}.out_proj"]), (present,))


def convolution(
    parts: Parts, x: ir.Value, name: str, layer: int, step: StepValues, activation: str = "none"
) -> tuple[ir.Value, ir.Value]:
    """Convolve rows (B, S, channels) over the tokens, and return them and the columns that remain."""
    edit, path = parts.edit, path_of(name)
    inputs = [
        edit.node("Transpose", [x], f"{path}/channels", perm=[0, 2, 1]),
        edit.constant(f"{name}.weight", whole(parts.weights[f"{name}.weight"])),
    ]
    bias = parts.weights.get(f"{name}.bias")
    mixed, present = edit.nodes(
        "CausalConvWithState",
        [*inputs, None if bias is None else edit.constant(f"{name}.bias", whole(bias)), step.past[layer][0]],
        [f"{path}/out", f"present_conv.{layer}"],
        name=f"{path}/CausalConvWithState",
        attributes={"activation": activation},
        domain=MICROSOFT,
    )
    return edit.node("Transpose", [mixed], f"{path}/rows", perm=[0, 2, 1]), present
