"""Mamba-2, whose state is a matrix for each head, as onnxruntime's gated linear attention.

A head's state decays by exp(-exp(A_log) * dt) and takes in B (dt * x)^T; it is read by C. So B stands for the keys, C
for the queries and dt * x for the values. The heads of a group share B and C. The state of a layer is the columns (B,
channels, kernel - 1) that its convolution still sees, and the matrices (B, heads, state, head_dim).
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike

from quantize.builder.parts import Mixed, Parts, StepValues, path_of
from quantize.builder.short_conv import convolution
from quantize.builder.weights import whole
from quantize.graph.edit import MICROSOFT


class Mamba:
    """The layers of one graph that are Mamba-2."""

    def __init__(self, parts: Parts) -> None:
        assert parts.design.mamba is not None
        self._parts = parts
        self._edit = parts.edit
        self._shape = parts.design.mamba
        self._whole = self._edit.constant("shape_whole", np.array([0, 0, -1], np.int64))

    def mix(self, x: ir.Value, layer: int, step: StepValues) -> Mixed:
        """Return the mixer's output, and the columns and matrices that its layer then keeps."""
        shape, name = self._shape, f"model.layers.{layer}.{self._parts.design.names.mamba}"
        path = path_of(name)
        joined = self._parts.product(x, [f"{name}.in_proj"])
        names = [f"{path}/{part}" for part in ("gate", "xbc", "dt")]
        gate, xbc, dt = self._parts.split(joined, [shape.size, shape.channels, shape.heads], names, "sizes_mamba")
        mixed, columns = convolution(self._parts, xbc, f"{name}.conv1d", layer, step, "silu")
        names = [f"{path}/{part}" for part in ("x", "b", "c")]
        value, key, query = self._parts.split(mixed, [shape.size, shape.shared, shape.shared], names, "sizes_xbc")
        steps = self._steps(dt, name)
        rates = -np.exp(whole(self._parts.weights[f"{name}.A_log"]))
        decay = self._edit.node("Mul", [steps, self._constant(f"{name}.rates", rates)], f"{path}/decay")
        outputs = self._edit.nodes(
            "LinearAttention",
            [
                self._for_each_head(query, f"{path}/queries"),
                self._for_each_head(key, f"{path}/keys"),
                self._by_head(value, self._column(steps, path), f"{path}/values"),
                step.past[layer][1],
                decay,
                None,
            ],
            [f"{path}/out", f"present_recurrent.{layer}"],
            name=f"{path}/LinearAttention",
            attributes={"q_num_heads": shape.heads, "kv_num_heads": shape.heads, "update_rule": "gated", "scale": 1.0},
            domain=MICROSOFT,
        )
        skipped = whole(self._parts.weights[f"{name}.D"]).reshape(-1, 1)
        direct = self._by_head(value, self._constant(f"{name}.D", skipped), f"{path}/direct")
        summed = self._edit.node("Add", [outputs[0], direct], f"{path}/sum")
        gated = self._edit.node("Mul", [summed, self._parts.silu(gate, f"{path}/gate")], f"{path}/gated")
        normed = self._norm(gated, f"{name}.norm")
        return Mixed(self._parts.product(normed, [f"{name}.out_proj"]), (columns, outputs[1]))

    def _steps(self, dt: ir.Value, name: str) -> ir.Value:
        """Return the step of each head (B, S, heads), which is positive."""
        bias = self._constant(f"{name}.dt_bias", whole(self._parts.weights[f"{name}.dt_bias"]))
        path = path_of(name)
        steps = self._edit.node("Softplus", [self._edit.node("Add", [dt, bias], f"{path}/dt/Add")], f"{path}/steps")
        least, largest = self._shape.limits
        if least == 0.0 and math.isinf(largest):
            return steps
        bounds = [self._constant("least_step", least), self._constant("largest_step", largest)]
        return self._edit.node("Clip", [steps, *bounds], f"{path}/limited_steps")

    def _column(self, values: ir.Value, path: str) -> ir.Value:
        shape = self._edit.constant("shape_column", np.array([0, 0, -1, 1], np.int64))
        return self._edit.node("Reshape", [values, shape], f"{path}/column")

    def _by_head(self, x: ir.Value, factors: ir.Value, path: str) -> ir.Value:
        """Multiply the channels of each head by a factor of its own."""
        by_head = self._edit.constant("shape_mamba_heads", np.array([0, 0, -1, self._shape.head_dim], np.int64))
        heads = self._edit.node("Reshape", [x, by_head], f"{path}/heads")
        return self._edit.node("Reshape", [self._edit.node("Mul", [heads, factors], f"{path}/Mul"), self._whole], path)

    def _for_each_head(self, x: ir.Value, path: str) -> ir.Value:
        """Give every head the B or C that the heads of its group share."""
        shape = self._shape
        if shape.groups > 1:
            by_group = self._edit.constant("shape_mamba_groups", np.array([0, 0, -1, shape.state], np.int64))
            owner = self._edit.constant("groups_of_heads", np.arange(shape.heads) // (shape.heads // shape.groups))
            groups = self._edit.node("Reshape", [x, by_group], f"{path}/groups")
            heads = self._edit.node("Gather", [groups, owner], f"{path}/heads", axis=2)
            return self._edit.node("Reshape", [heads, self._whole], path)
        counts = self._edit.constant("repeat_mamba_heads", np.array([1, 1, self._shape.heads], np.int64))
        return self._edit.node("Tile", [x, counts], path)

    def _norm(self, x: ir.Value, name: str) -> ir.Value:
        """Norm the channels of each group."""
        shape, path = self._shape, path_of(name)
        if shape.groups == 1:
            return self._parts.norm(x, name)
        width = shape.size // shape.groups
        by_group = self._edit.constant("shape_norm_groups", np.array([0, 0, -1, width], np.int64))
        groups = self._edit.node("Reshape", [x, by_group], f"{path}/groups")
        flat = self._edit.node("Reshape", [self._parts.plain_norm(groups, width, path), self._whole], f"{path}/flat")
        weight = self._constant(f"{name}.weight", whole(self._parts.weights[f"{name}.weight"]))
        return self._edit.node("Mul", [flat, weight], f"{path}/Mul")

    def _constant(self, name: str, array: ArrayLike) -> ir.Value:
        return self._edit.constant(name, np.asarray(array, np.float32))
