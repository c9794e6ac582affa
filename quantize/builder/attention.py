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

    def mix(self, x: ir.Value, layer: int, step: StepValues) -> Mixed:
        """Return attention's output, and the keys and values that the cache then holds."""
        name, prefix = f"model.layers.{layer}.self_attn", f"/layers.{layer}/attn"
        rotation, config = self._design.rotations[layer], self._config
        qkv, gate = self._heads(self._queries_keys_values(x, name), name, prefix)
        inputs = [*qkv, *step.past[layer], step.seqlens_k, step.total_sequence_length, *self._tables.of(rotation)]
        outputs = self._parts.edit.nodes(
            "GroupQueryAttention",
            inputs,
            [f"{prefix}/out", f"present.{layer}.key", f"present.{layer}.value"],
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
        output = outputs[0] if gate is None else self._gated(outputs[0], gate, prefix)
        if self._design.output_gate == "heads":
            output = self._gated_by_head(output, self._parts.product(x, [f"{name}.gate_proj"]), prefix)
        output = self._parts.product(output, [f"{name}.{self._design.names.output}"])
        return Mixed(output, (outputs[1], outputs[2]))

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

    def _heads(self, qkv: ir.Value, name: str, prefix: str) -> tuple[list[ir.Value | None], ir.Value | None]:
        """Norm each head of queries and keys, where the model does, else leave all three joined; give the gates too."""
        query_norm, key_norm = f"{name}.{self._design.names.query_norm}", f"{name}.{self._design.names.key_norm}"
        if f"{query_norm}.weight" not in self._parts.weights:
            return [qkv, None, None], None
        edit, width = self._parts.edit, self._config.head_dim
        keys, doubled = self._config.num_kv_heads * width, 2 if self._design.output_gate == "channels" else 1
        sizes = [self._config.num_heads * width * doubled, keys, keys]
        q, k, v = self._parts.split(qkv, sizes, [f"{prefix}/{part}" for part in "qkv"], "sizes_qkv")
        by_head = edit.constant("shape_heads", np.array([0, 0, -1, width], np.int64))
        whole = edit.constant("shape_whole", np.array([0, 0, -1], np.int64))
        gate: ir.Value | None = None
        if self._design.output_gate == "channels":  # each head's channels, then its gates
            pairs = edit.constant("shape_gated_heads", np.array([0, 0, -1, 2 * width], np.int64))
            heads = edit.node("Reshape", [q, pairs], f"{prefix}/gated_heads")
            q, gate = self._parts.split(heads, [width] * 2, [f"{prefix}/q_heads", f"{prefix}/gates"], "sizes_gated")
            gate = edit.node("Reshape", [gate, whole], f"{prefix}/gates/flat")
        normed: list[ir.Value | None] = []
        for value, part, norm in ((q, "q", query_norm), (k, "k", key_norm)):
            heads = edit.node("Reshape", [value, by_head], f"{prefix}/{part}_norm/heads")
            heads = self._parts.norm(heads, norm)
            normed.append(edit.node("Reshape", [heads, whole], f"{prefix}/{part}_norm/flat"))
        return [*normed, v], gate
