"""Qwen3.5's gated delta net: attention whose keys and values are summed up in one matrix for each head.

The state of a layer is the columns (B, channels, kernel - 1) that its convolution still sees, and the matrices
(B, heads, key_dim, value_dim).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantize.builder.parts import Mixed, Parts, StepValues, path_of
from quantize.builder.short_conv import convolution
from quantize.builder.weights import whole
from quantize.graph.edit import MICROSOFT

_UNIT_EPSILON = 1e-6  # on the sum of squares of a query or key


class DeltaNet:
    """The layers of one graph that are gated delta nets."""

    def __init__(self, parts: Parts) -> None:
        assert parts.design.delta is not None
        self._parts = parts
        self._edit = parts.edit
        self._shape = parts.design.delta

    def mix(self, x: ir.Value, layer: int, step: StepValues) -> Mixed:
        """Return the mixer's output, and the columns and matrices that its layer then keeps."""
        shape, name = self._shape, f"model.layers.{layer}.linear_attn"
        path = path_of(name)
        products = [f"{name}.in_proj_qkv", f"{name}.in_proj_z"]
        joined = self._parts.product(x, products, f"{name}.in_proj_qkvz")
        sizes, names = [2 * shape.key_size + shape.value_size, shape.value_size], [f"{path}/qkv", f"{path}/z"]
        qkv, z = self._parts.split(joined, sizes, names, "sizes_qkvz")
        decay, beta = self._gates(x, name)
        mixed, columns = convolution(self._parts, qkv, f"{name}.conv1d", layer, step, "silu")
        names = [f"{path}/qk", f"{path}/v"]
        keyed, values = self._parts.split(mixed, [2 * shape.key_size, shape.value_size], names, "sizes_qk_v")
        outputs = self._edit.nodes(
            "LinearAttention",
            [*self._queries_keys(keyed, path), values, step.past[layer][1], decay, beta],
            [f"{path}/out", f"present_recurrent.{layer}"],
            name=f"{path}/LinearAttention",
            attributes={
                "q_num_heads": shape.value_heads,
                "kv_num_heads": shape.value_heads,
                "update_rule": "gated_delta",
                "scale": float(np.float32(shape.key_dim**-0.5)),
            },
            domain=MICROSOFT,
        )
        normed = self._gated_norm(outputs[0], z, name)
        return Mixed(self._parts.product(normed, [f"{name}.out_proj"]), (columns, outputs[1]))

    def _gates(self, x: ir.Value, name: str) -> list[ir.Value]:
        """Return the decay of each head, as a logarithm, and the rate of its update."""
        path, heads = path_of(name), self._shape.value_heads
        joined = self._parts.product(x, [f"{name}.in_proj_b", f"{name}.in_proj_a"], f"{name}.in_proj_ba")
        b, a = self._parts.split(joined, [heads] * 2, [f"{path}/b", f"{path}/a"], f"halves_{2 * heads}")
        bias = self._edit.constant(f"{name}.dt_bias", whole(self._parts.weights[f"{name}.dt_bias"]))
        rates = -np.exp(whole(self._parts.weights[f"{name}.A_log"]))
        scale = self._edit.constant(f"{name}.decay_scale", np.asarray(rates, np.float32))
        return self._edit.nodes(
            "LinearAttentionGate",
            [a, bias, scale, b],
            [f"{path}/decay", f"{path}/beta"],
            name=f"{path}/LinearAttentionGate",
            domain=MICROSOFT,
        )

    def _queries_keys(self, keyed: ir.Value, path: str) -> list[ir.Value]:
        """Give each query and key the length 1; heads of values that share one get it each."""
        edit, shape = self._edit, self._shape
        by_head = edit.constant("shape_keys", np.array([0, 0, -1, shape.key_dim], np.int64))
        whole = edit.constant("shape_whole", np.array([0, 0, -1], np.int64))
        heads = edit.node("Reshape", [keyed, by_head], f"{path}/heads")
        unit = edit.constant("unit_length", np.full(shape.key_dim, shape.key_dim**-0.5, np.float32))
        epsilon = _UNIT_EPSILON / shape.key_dim  # of the mean of squares instead of their sum
        heads = edit.node(
            "SimplifiedLayerNormalization", [heads, unit], f"{path}/unit", axis=-1, epsilon=epsilon, stash_type=1
        )
        names = [f"{path}/q", f"{path}/k"]
        if shape.value_heads == shape.key_heads:
            flat = edit.node("Reshape", [heads, whole], f"{path}/flat")
            return self._parts.split(flat, [shape.key_size] * 2, names, f"halves_{2 * shape.key_size}")
        owner = np.arange(shape.value_heads, dtype=np.int64) // (shape.value_heads // shape.key_heads)
        found = []
        for name, first in zip(names, (0, shape.key_heads), strict=True):
            index = edit.constant(f"heads_from_{first}", owner + first)
            rows = edit.node("Gather", [heads, index], f"{name}/heads", axis=2)
            found.append(edit.node("Reshape", [rows, whole], name))
        return found

    def _gated_norm(self, x: ir.Value, gate: ir.Value, name: str) -> ir.Value:
        """Norm each head and multiply it by silu(gate); this norm's weights are factors as they are."""
        weight = self._edit.constant(f"{name}.norm.weight", whole(self._parts.weights[f"{name}.norm.weight"]))
        epsilon = float(np.float32(self._parts.design.norm_epsilon))
        path = f"{path_of(name)}/GatedRMSNorm"
        return self._edit.node(
            "GatedRMSNorm", [x, weight, gate], path, domain=MICROSOFT, epsilon=epsilon, activation="silu"
        )
