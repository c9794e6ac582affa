"""Attention over the cache, by onnxruntime's operator for groups of queries."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantize.builder.parts import Mixed, Parts, StepValues
from quantize.graph.edit import MICROSOFT
from quantize.graph.rope_tables import RopeTables


class Attention:
    """The layers of attention of one graph."""

    def __init__(self, parts: Parts, tables: RopeTables) -> None:
        self._parts = parts
        self._tables = tables
        self._config = parts.config
        self._design = parts.design
        self._lent: dict[int, list[ir.Value | None]] = {}

    def mix(self, x: ir.Value, layer: int, step: StepValues) -> Mixed:
        """Return attention's output, and the keys and values that the cache then holds.

        A layer without keys and values adds none to those that another layer has just written, and keeps nothing.
        """
        name, prefix = f"model.layers.{layer}.{self._design.names.attention}", f"/layers.{layer}/attn"
        rotation, config, source = self._design.rotations[layer], self._config, self._design.kv_layers[layer]
        gate: ir.Value | None = None
        if source == layer:
            qkv, gate = self._heads(self._queries_keys_values(x, name), layer, name, prefix)
            inputs = [*qkv, *step.past[layer]]
            kept = [f"present.{layer}.key", f"present.{layer}.value"]
        else:
            inputs, kept = [self._queries(x, layer, name, prefix), *self._lent[source]], []
        outputs = self._parts.edit.nodes(
            "GroupQueryAttention",
            [*inputs, step.seqlens_k, step.total_sequence_length, *self._tables.of(rotation)],
            [f"{prefix}/out", *kept],
            name=f"{prefix}/GroupQueryAttention",
            attributes={
                "num_heads": config.num_heads,
                "kv_num_heads": config.num_kv_heads,
                "scale": float(np.float32(self._design.attention_scale)),
                "do_rotary": int(rotation is not None),
                "rotary_interleaved": 0,
                "local_window_size": config.window_of(layer) or -1,
            },
            domain=MICROSOFT,
        )
        if layer in self._design.kv_layers[layer + 1 :]:
            self._lent[layer] = [*self._no_more(inputs[1], inputs[2], prefix), *outputs[1:]]
        output = outputs[0] if gate is None else self._gated(outputs[0], gate, prefix)
        if self._design.output_gate == "heads":
            output = self._gated_by_head(output, self._parts.product(x, [f"{name}.gate_proj"]), prefix)
        output = self._parts.product(output, [f"{name}.{self._design.names.output}"])
        return Mixed(output, tuple(outputs[1:]))

    def _no_more(self, keys: ir.Value | None, values: ir.Value | None, prefix: str) -> list[ir.Value]:
        """Return keys and values (B, 0, width) of no token: the operator then reads the cache as it is."""
        edit = self._parts.edit
        zero, axis = (
            edit.constant("no_token", np.array([0], np.int64)),
            edit.constant("axis_1", np.array([1], np.int64)),
        )
        return [
            edit.node("Slice", [value, zero, zero, axis], f"{prefix}/no_{part}")
            for value, part in ((keys, "keys"), (values, "values"))
        ]

    def _queries(self, x: ir.Value, layer: int, name: str, prefix: str) -> ir.Value:
        """Compute the queries of a layer without keys and values."""
        queries = self._parts.product(x, [f"{name}.q_proj"])
        return self._normed(queries, layer, f"{name}.{self._design.names.query_norm}", f"{prefix}/q_norm")

    def _normed(self, value: ir.Value, layer: int, norm: str | None, path: str) -> ir.Value:
        """Norm each head of (B, S, heads * width); without a name the norm has no weights."""
        edit, parts, width = self._parts.edit, self._parts, self._design.head_dims[layer]
        suffix = "" if width == self._config.head_dim else f"_{width}"
        by_head = edit.constant(f"shape_heads{suffix}", np.array([0, 0, -1, width], np.int64))
        whole = edit.constant("shape_whole", np.array([0, 0, -1], np.int64))
        heads = edit.node("Reshape", [value, by_head], f"{path}/heads")
        heads = parts.plain_norm(heads, width, path) if norm is None else parts.norm(heads, norm)
        return edit.node("Reshape", [heads, whole], f"{path}/flat")

    def _gated(self, x: ir.Value, gate: ir.Value, prefix: str) -> ir.Value:
        """Multiply by sigmoid(gate)."""
        share = self._parts.edit.node("Sigmoid", [gate], f"{prefix}/gate/Sigmoid")
        return self._parts.edit.node("Mul", [x, share], f"{prefix}/gate/Mul")

    def _gated_by_head(self, x: ir.Value, gate: ir.Value, prefix: str) -> ir.Value:
        """Multiply the channels of each head by the sigmoid of its gate (B, S, heads)."""
        edit = self._parts.edit
        by_head = edit.constant("shape_heads", np.array([0, 0, -1, self._config.head_dim], np.int64))
        whole = edit.constant("shape_whole", np.array([0, 0, -1], np.int64))
        column = edit.constant("shape_gates", np.array([0, 0, -1, 1], np.int64))
        heads = edit.node("Reshape", [x, by_head], f"{prefix}/gate/heads")
        gated = self._gated(heads, edit.node("Reshape", [gate, column], f"{prefix}/gate/column"), prefix)
        return edit.node("Reshape", [gated, whole], f"{prefix}/gate/flat")

    def _queries_keys_values(self, x: ir.Value, name: str) -> ir.Value:
        joined = f"{name}.qkv_proj"
        names = [joined] if f"{joined}.weight" in self._parts.weights else [f"{name}.{part}_proj" for part in "qkv"]
        return self._parts.product(x, names, joined)

    def _heads(
        self, qkv: ir.Value, layer: int, name: str, prefix: str
    ) -> tuple[list[ir.Value | None], ir.Value | None]:
        """Norm each head of queries and keys, where the model does, else leave all three joined; give the gates too."""
        query_norm, key_norm = f"{name}.{self._design.names.query_norm}", f"{name}.{self._design.names.key_norm}"
        if f"{query_norm}.weight" not in self._parts.weights:
            return [qkv, None, None], None
        edit, width = self._parts.edit, self._design.head_dims[layer]
        keys, doubled = self._config.num_kv_heads * width, 2 if self._design.output_gate == "channels" else 1
        sizes = [self._config.num_heads * width * doubled, keys, keys]
        suffix = "" if width == self._config.head_dim else f"_{width}"
        q, k, v = self._parts.split(qkv, sizes, [f"{prefix}/{part}" for part in "qkv"], f"sizes_qkv{suffix}")
        gate: ir.Value | None = None
        if self._design.output_gate == "channels":  # each head's channels, then its gates
            pairs = edit.constant("shape_gated_heads", np.array([0, 0, -1, 2 * width], np.int64))
            heads = edit.node("Reshape", [q, pairs], f"{prefix}/gated_heads")
            q, gate = self._parts.split(heads, [width] * 2, [f"{prefix}/q_heads", f"{prefix}/gates"], "sizes_gated")
            whole = edit.constant("shape_whole", np.array([0, 0, -1], np.int64))
            gate = edit.node("Reshape", [gate, whole], f"{prefix}/gates/flat")
        q = self._normed(q, layer, query_norm, f"{prefix}/q_norm")
        k = self._normed(k, layer, key_norm, f"{prefix}/k_norm")
        if self._design.has_value_norm:
            v = self._normed(v, layer, None, f"{prefix}/v_norm")
        return [q, k, v], gate
