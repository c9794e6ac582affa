"""The MLP: down(activation(gate) * up), or down(activation(up)) without a gate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from quantize.builder.parts import Parts, path_of

# Of the tanh form of GELU; the nodes are those of torch's export, which onnxruntime knows as one operator.
_GELU_CUBE, _GELU_WIDTH = np.float32(0.044715), np.float32(np.sqrt(2 / np.pi))


def mlp(parts: Parts, x: ir.Value, layer: int) -> ir.Value:
    """Compute a layer's MLP; gate and up are one product."""
    names, block = parts.design.names.mlp, f"model.layers.{layer}"
    if names.gate is None:
        up = f"{block}.{names.up}"
        path = path_of(up).rpartition("/")[0]
        return parts.product(activation_of(parts)(parts.product(x, [up]), f"{path}/act_fn"), [f"{block}.{names.down}"])
    return _gated(parts, x, block)


def activation_of(parts: Parts) -> Callable[[ir.Value, str], ir.Value]:
    """Return the function that writes the nodes of the model's activation, below a path."""
    match parts.design.activation:
        case "silu":
            return parts.silu
        case "relu2":
            return parts.squared_relu
    return _Gelu(parts).of


def _gated(parts: Parts, x: ir.Value, block: str) -> ir.Value:
    names = parts.design.names.mlp
    joined = f"{block}.{names.joined}"
    if f"{joined}.weight" in parts.weights:
        width = parts.weights[f"{joined}.weight"].shape[0] // 2
        gate, up = _halves(parts, parts.product(x, [joined]), joined, width)
    else:
        first, second = f"{block}.{names.gate}", f"{block}.{names.up}"
        width = parts.weights[f"{first}.weight"].shape[0]
        gate, up = _halves(parts, parts.product(x, [first, second], joined, has_bias=False), joined, width)
        gate, up = parts.biased(gate, first), parts.biased(up, second)
    path = path_of(joined).rpartition("/")[0]
    product = parts.edit.node("Mul", [activation_of(parts)(gate, f"{path}/act_fn"), up], f"{path}/Mul")
    return parts.product(product, [f"{block}.{names.down}"])


def _halves(parts: Parts, product: ir.Value, name: str, width: int) -> list[ir.Value]:
    outputs = [f"{path_of(name)}/{half}" for half in ("gate", "up")]
    return parts.split(product, [width] * 2, outputs, f"halves_{2 * width}")


class _Gelu:
    """The tanh form of GELU."""

    def __init__(self, parts: Parts) -> None:
        self._edit = parts.edit

    def of(self, x: ir.Value, path: str) -> ir.Value:
        """Compute 0.5 x (1 + tanh(...))."""
        edit = self._edit
        square = edit.node("Mul", [x, x], f"{path}/square")
        cube = edit.node("Mul", [x, square], f"{path}/cube")
        cube = edit.node("Mul", [edit.constant("gelu_cube", _GELU_CUBE), cube], f"{path}/cube_scaled")
        inner = edit.node("Add", [x, cube], f"{path}/inner")
        inner = edit.node("Mul", [edit.constant("gelu_width", _GELU_WIDTH), inner], f"{path}/inner_scaled")
        tanh = edit.node("Tanh", [inner], f"{path}/Tanh")
        gate = edit.node("Add", [edit.constant("gelu_one", np.float32(1)), tanh], f"{path}/gate")
        gated = edit.node("Mul", [x, gate], f"{path}/gated")
        return edit.node("Mul", [edit.constant("gelu_half", np.float32(0.5)), gated], f"{path}/out")
