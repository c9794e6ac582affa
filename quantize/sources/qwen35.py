"""Qwen3.5's text model: three layers of a gated delta net to each layer of gated attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.errors import QuantizeError
from quantize.sources.fields import Fields, shown
from quantize.sources.rope import FULL

LINEAR = "linear_attention"
_COUNTS = ("key_head_dim", "value_head_dim", "num_key_heads", "num_value_heads")


def qwen35_keys(fields: Fields) -> dict[str, Any]:
    """Return the canonical keys that only this family has.

    Raises:
        QuantizeError: missing, contradictory, or not known.
    """
    keys: dict[str, Any] = {f"linear_{name}": fields.count(f"linear_{name}") for name in _COUNTS}
    heads, shared = keys["linear_num_value_heads"], keys["linear_num_key_heads"]
    if heads % shared:
        raise QuantizeError(
            f"linear_num_value_heads in {fields.where} is {heads}, which {shared} key heads do not divide"
        )
    keys["linear_conv_kernel_dim"] = fields.kernel("linear_conv_kernel_dim")
    fields.fixed("attn_output_gate", True)
    fields.fixed("output_gate_type", "swish")
    fields.fixed("mamba_ssm_dtype", "float32")
    fields.absent("mlp_only_layers")
    return {**keys, "layer_types": _layer_types(fields)}


def qwen35_layer(keys: Mapping[str, Any], layer: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a layer's mixer below its prefix, by shape."""
    hidden = keys["hidden_size"]
    if keys["layer_types"][layer] == FULL:
        return _attention(keys)
    key_size = keys["linear_num_key_heads"] * keys["linear_key_head_dim"]
    heads, width = keys["linear_num_value_heads"], keys["linear_value_head_dim"]
    channels = 2 * key_size + heads * width
    shapes: dict[str, tuple[int, ...]] = {
        "in_proj_qkv.weight": (channels, hidden),
        "in_proj_z.weight": (heads * width, hidden),
        "in_proj_b.weight": (heads, hidden),
        "in_proj_a.weight": (heads, hidden),
        "conv1d.weight": (channels, 1, keys["linear_conv_kernel_dim"]),
        "A_log": (heads,),
        "dt_bias": (heads,),
        "norm.weight": (width,),
        "out_proj.weight": (hidden, heads * width),
    }
    return {f"linear_attn.{name}": shape for name, shape in shapes.items()}


def _attention(keys: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, head = keys["hidden_size"], keys["head_dim"]
    queries, others = keys["num_attention_heads"] * head, keys["num_key_value_heads"] * head
    rows = {"q_proj": 2 * queries, "k_proj": others, "v_proj": others}  # each query with its gate
    products = {**{name: (count, hidden) for name, count in rows.items()}, "o_proj": (hidden, queries)}
    shapes: dict[str, tuple[int, ...]] = {"q_norm.weight": (head,), "k_norm.weight": (head,)}
    for name, shape in products.items():
        shapes[f"{name}.weight"] = shape
        if keys["attention_bias"]:
            shapes[f"{name}.bias"] = shape[:1]
    return {f"self_attn.{name}": shape for name, shape in shapes.items()}


def _layer_types(fields: Fields) -> list[str]:
    layers, types = fields.count("num_hidden_layers"), fields.value("layer_types")
    if fields.has("full_attention_interval"):
        step = fields.count("full_attention_interval")
        named = [LINEAR if (layer + 1) % step else FULL for layer in range(layers)]
        if types not in (None, named):
            raise QuantizeError(f"layer_types and full_attention_interval in {fields.where} differ; keep the right one")
        types = named
    if types is None:
        raise fields.missing("layer_types", "which says which layers are attention")
    if not isinstance(types, list) or len(types) != layers or not all(kind in (FULL, LINEAR) for kind in types):
        raise QuantizeError(
            f"layer_types in {fields.where} is {shown(types)}; {layers} names are needed, {FULL!r} or {LINEAR!r}"
        )
    if FULL not in types:
        raise QuantizeError(f"layer_types in {fields.where} has no layer of attention, which is not known")
    return list(types)
