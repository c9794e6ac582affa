"""LFM3's configuration: short convolutions, attention within a window, and attention over all tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.errors import QuantizeError
from quantize.sources.fields import Fields, shown
from quantize.sources.lfm2 import CONV, conv_keys, conv_layer
from quantize.sources.rope import FULL, SLIDING

_NORMS = ("operator_norm", "ffn_norm", "post_operator_norm", "post_ffn_norm")


def lfm3_keys(fields: Fields) -> dict[str, Any]:
    """Return the canonical keys that only this family has.

    Raises:
        QuantizeError: missing, contradictory, or not known.
    """
    fields.fixed("use_sandwich_norm", True)
    fields.fixed("use_attention_gate", True)
    layers, types = fields.count("num_hidden_layers"), fields.value("layer_types")
    known = (FULL, SLIDING, CONV)
    if not isinstance(types, list) or len(types) != layers or not all(kind in known for kind in types):
        raise QuantizeError(
            f"layer_types in {fields.where} is {shown(types)}; {layers} names are needed out of {', '.join(known)}"
        )
    if not {FULL, SLIDING} <= set(types):
        raise QuantizeError(f"layer_types in {fields.where} has no {FULL} or no {SLIDING}, which is not known")
    return {
        "norm_eps": fields.number("norm_eps"),
        "intermediate_size": fields.count("intermediate_size"),
        "layer_types": list(types),
        "sliding_window": fields.count("sliding_window"),
        **conv_keys(fields),
    }


def lfm3_layer(keys: Mapping[str, Any], layer: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a layer below its prefix, by shape."""
    hidden, wide, head = keys["hidden_size"], keys["intermediate_size"], keys["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (hidden,) for name in _NORMS}
    shapes |= {f"feed_forward.{name}.weight": (wide, hidden) for name in ("w1", "w3")}
    shapes["feed_forward.w2.weight"] = (hidden, wide)
    if keys["layer_types"][layer] == CONV:
        return shapes | conv_layer(keys)
    queries, others = keys["num_attention_heads"] * head, keys["num_key_value_heads"] * head
    products = {
        "q_proj": (queries, hidden),
        "k_proj": (others, hidden),
        "v_proj": (others, hidden),
        "o_proj": (hidden, queries),
    }
    for name, shape in products.items():
        shapes[f"self_attn.{name}.weight"] = shape
        if keys["attention_bias"]:
            shapes[f"self_attn.{name}.bias"] = shape[:1]
    shapes["self_attn.gate_proj.weight"] = (keys["num_attention_heads"], hidden)
    return shapes | {f"self_attn.{part}_norm.weight": (head,) for part in "qk"}
