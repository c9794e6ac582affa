"""Attention of a decoder's body over whole texts: no cache, each head of keys serves several of queries."""

from __future__ import annotations

from collections.abc import Callable

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
        parts, config, design, edit = self._parts, self._parts.config, self._parts.design, self._edit
        name, prefix = f"model.layers.{layer}.self_attn", f"/layers.{layer}/attn"
        width, heads, kv_heads = design.head_dims[layer], config.num_heads, design.kv_heads[layer]
        sizes = [heads * width, kv_heads * width, kv_heads * width]
        rows = self._packing.pad_rows(self._queries_keys_values(x, name), sum(sizes), f"{prefix}/qkv")
        paths = [f"{prefix}/{part}" for part in "qkv"]
        q, k, v = parts.split(rows, sizes, paths, f"sizes_qkv{self._suffix(width, kv_heads)}")
        names, rotation = design.names, design.rotations[layer]
        q = self._normed(q, f"{name}.{names.query_norm}", f"{prefix}/q", width)
        k = self._normed(k, f"{name}.{names.key_norm}", f"{prefix}/k", width)
        if design.has_value_norm:
            v = self._by_head(v, f"{prefix}/v", width, lambda rows: parts.plain_norm(rows, width, f"{prefix}/v_norm"))
        q = self._positioned(q, rotation, f"{prefix}/q", width, heads)
        k = self._positioned(k, rotation, f"{prefix}/k", width, kv_heads)
        k, v = (self._shared(rows, f"{prefix}/{part}", width, kv_heads) for part, rows in (("k", k), ("v", v)))
        context = edit.node(
            "MultiHeadAttention",
            [q, k, v, None, self._packing.mask, *self._bias(layer)],
            f"{prefix}/context.rows",
            domain=MICROSOFT,
            num_heads=heads,
            scale=float(np.float32(design.attention_scale)),
            unidirectional=int(not config.is_bidirectional),
        )
        context = self._packing.pack_rows(context, sizes[0], f"{prefix}/context")
        return parts.product(context, [f"{name}.{names.output}"])

    def _suffix(self, width: int, kv_heads: int) -> str:
        """Return the end of the names of constants, where a layer's heads are not those of most layers."""
        config = self._parts.config
        return "" if (width, kv_heads) == (config.head_dim, config.num_kv_heads) else f"_{kv_heads}_{width}"

    def _queries_keys_values(self, x: ir.Value, name: str) -> ir.Value:
        joined = f"{name}.qkv_proj"
        names = [joined] if f"{joined}.weight" in self._parts.weights else [f"{name}.{part}_proj" for part in "qkv"]
        return self._parts.product(x, names, joined)

    def _normed(self, x: ir.Value, norm: str, path: str, width: int) -> ir.Value:
        """Norm each head of (B, S, heads * width), where the model does."""
        if f"{norm}.weight" not in self._parts.weights:
            return x
        return self._by_head(x, path, width, lambda rows: self._parts.norm(rows, norm))

    def _by_head(self, x: ir.Value, path: str, width: int, norm: Callable[[ir.Value], ir.Value]) -> ir.Value:
        edit = self._edit
        suffix = "" if width == self._parts.config.head_dim else f"_{width}"
        heads = edit.node("Reshape", [x, ints(edit, f"shape_heads{suffix}", [0, 0, -1, width])], f"{path}_heads")
        return edit.node("Reshape", [norm(heads), ints(edit, "whole", [0, 0, -1])], f"{path}_normed")

    def _positioned(self, x: ir.Value, rotation: Rotation | None, path: str, width: int, num_heads: int) -> ir.Value:
        """Turn the channels of each head of (B, S, num_heads * width) by the token's position."""
        if rotation is None:
            return x
        turning = 2 * len(rotation.frequencies)
        return self._edit.node(
            "RotaryEmbedding",
            [x, ints(self._edit, "from_zero", [0]), *self._tables.of(rotation)],
            f"{path}_rotated",
            domain=MICROSOFT,
            num_heads=num_heads,
            rotary_embedding_dim=0 if turning == width else turning,
        )

    def _shared(self, x: ir.Value, path: str, width: int, kv_heads: int) -> ir.Value:
        """Give every head of queries its keys or values: (B, S, heads * width) of (B, S, kv_heads * width)."""
        edit, suffix = self._edit, self._suffix(width, kv_heads)
        group = self._parts.config.num_heads // kv_heads
        if group == 1:
            return x
        apart = ints(edit, f"shape_groups{suffix}", [0, 0, kv_heads, 1, width])
        heads = edit.node("Reshape", [x, apart], f"{path}_apart")
        shape = ints(edit, f"shape_repeated{suffix}", [1, 1, kv_heads, group, width])
        repeated = edit.node("Expand", [heads, shape], f"{path}_repeated")
        return edit.node("Reshape", [repeated, ints(edit, "whole", [0, 0, -1])], f"{path}_shared")

    def _bias(self, layer: int) -> list[ir.Value]:
        """Return the bias (1, 1, S, S) that hides the tokens beyond the layer's window, if it has one."""
        reach = self._parts.config.reach_of(layer)
        if reach is None:
            return []
        if reach not in self._windows:
            edit, name = self._edit, f"window_{reach}"
            distances = edit.node("Abs", [self._packing.distances()], f"{name}.distances")
            is_far = edit.node("Greater", [distances, edit.constant(name, np.int64(reach))], f"{name}.is_far")
            inside = edit.constant("inside", np.float32(0))
            bias = edit.node("Where", [is_far, edit.constant("outside", _OUTSIDE), inside], f"{name}.bias")
            self._windows[reach] = edit.node("Unsqueeze", [bias, ints(edit, "first_axes", [0, 1])], f"{name}.by_head")
        return [self._windows[reach]]
