"""Attention of a decoder's body over whole texts: no cache, each head of keys serves several of queries."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantize.builder.parts import Parts
from quantize.graph.edit import MICROSOFT
from quantize.graph.rope_tables import RopeTables
from quantize.kinds.encoder_graph.packing import Packing, ints
from quantize.sources.rotations import Rotation

_OUTSIDE = np.float32(-1e9)  # added to the score of a token beyond the window


class BodyAttention:
    """The attention of all layers of one graph; values are packed rows (T, width)."""

    def __init__(self, parts: Parts, packing: Packing, tables: RopeTables) -> None:
        self._parts = parts
        self._edit = parts.edit
        self._packing = packing
        self._tables = tables
        self._windows: dict[int, ir.Value] = {}

    def apply(self, x: ir.Value, layer: int) -> ir.Value:
        """Return a layer's attention output."""
        parts, config, edit = self._parts, self._parts.config, self._edit
        name, prefix = f"model.layers.{layer}.self_attn", f"/layers.{layer}/attn"
        width = config.head_dim
        sizes = [config.num_heads * width, config.num_kv_heads * width, config.num_kv_heads * width]
        rows = self._packing.pad_rows(self._queries_keys_values(x, name), sum(sizes), f"{prefix}/qkv")
        q, k, v = parts.split(rows, sizes, [f"{prefix}/{part}" for part in "qkv"], "sizes_qkv")
        names, rotation = parts.design.names, parts.design.rotations[layer]
        heads, kv_heads = config.num_heads, config.num_kv_heads
        q = self._normed(q, f"{name}.{names.query_norm}", f"{prefix}/q")
        k = self._normed(k, f"{name}.{names.key_norm}", f"{prefix}/k")
        q = self._positioned(q, rotation, f"{prefix}/q", heads)
        k = self._positioned(k, rotation, f"{prefix}/k", kv_heads)
        k, v = self._shared(k, f"{prefix}/k"), self._shared(v, f"{prefix}/v")
        context = edit.node(
            "MultiHeadAttention",
            [q, k, v, None, self._packing.mask, *self._bias(layer)],
            f"{prefix}/context.rows",
            domain=MICROSOFT,
            num_heads=heads,
            scale=float(np.float32(parts.design.attention_scale)),
            unidirectional=int(not config.is_bidirectional),
        )
        context = self._packing.pack_rows(context, sizes[0], f"{prefix}/context")
        return parts.product(context, [f"{name}.{names.output}"])

    def _queries_keys_values(self, x: ir.Value, name: str) -> ir.Value:
        joined = f"{name}.qkv_proj"
        names = [joined] if f"{joined}.weight" in self._parts.weights else [f"{name}.{part}_proj" for part in "qkv"]
        return self._parts.product(x, names, joined)

    def _normed(self, x: ir.Value, norm: str, path: str) -> ir.Value:
        """Norm each head of (B, S, heads * head_dim), where the model does."""
        if f"{norm}.weight" not in self._parts.weights:
            return x
        edit = self._edit
        heads = edit.node(
            "Reshape", [x, ints(edit, "shape_heads", [0, 0, -1, self._parts.config.head_dim])], f"{path}_heads"
        )
        return edit.node("Reshape", [self._parts.norm(heads, norm), ints(edit, "whole", [0, 0, -1])], f"{path}_normed")

    def _positioned(self, x: ir.Value, rotation: Rotation | None, path: str, num_heads: int) -> ir.Value:
        """Turn the channels of each head of (B, S, num_heads * head_dim) by the token's position."""
        if rotation is None:
            return x
        width, turning = self._parts.config.head_dim, 2 * len(rotation.frequencies)
        return self._edit.node(
            "RotaryEmbedding",
            [x, ints(self._edit, "from_zero", [0]), *self._tables.of(rotation)],
            f"{path}_rotated",
            domain=MICROSOFT,
            num_heads=num_heads,
            rotary_embedding_dim=0 if turning == width else turning,
        )

    def _shared(self, x: ir.Value, path: str) -> ir.Value:
        """Give every head of queries its keys or values: (B, S, heads * head_dim) of (B, S, kv_heads * head_dim)."""
        config, edit = self._parts.config, self._edit
        group = config.num_heads // config.num_kv_heads
        if group == 1:
            return x
        apart = ints(edit, "shape_groups", [0, 0, config.num_kv_heads, 1, config.head_dim])
        heads = edit.node("Reshape", [x, apart], f"{path}_apart")
        shape = ints(edit, "shape_repeated", [1, 1, config.num_kv_heads, group, config.head_dim])
        repeated = edit.node("Expand", [heads, shape], f"{path}_repeated")
        return edit.node("Reshape", [repeated, ints(edit, "whole", [0, 0, -1])], f"{path}_shared")

    def _bias(self, layer: int) -> list[ir.Value]:
        """Return the bias (1, 1, S, S) that hides the tokens beyond the layer's window, if it has one."""
        config = self._parts.config
        window = config.window_of(layer)
        if window is None:
            return []
        # Of a bidirectional model the window is cut in half, to either side (transformers' Gemma3TextConfig).
        reach = window // 2 if config.is_bidirectional else window - 1
        if reach not in self._windows:
            edit, name = self._edit, f"window_{reach}"
            distances = edit.node("Abs", [self._packing.distances()], f"{name}.distances")
            is_far = edit.node("Greater", [distances, edit.constant(name, np.int64(reach))], f"{name}.is_far")
            inside = edit.constant("inside", np.float32(0))
            bias = edit.node("Where", [is_far, edit.constant("outside", _OUTSIDE), inside], f"{name}.bias")
            self._windows[reach] = edit.node("Unsqueeze", [bias, ints(edit, "first_axes", [0, 1])], f"{name}.by_head")
        return [self._windows[reach]]
