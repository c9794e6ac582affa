"""Gemma 4's text model: per-layer embeddings, wider heads in full attention, last layers without keys and values.

Known are the models whose layers are all dense and have per-layer embeddings, E2B and E4B.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from appliance.errors import QuantizeError
from quantize.sources.fields import Fields, shown
from quantize.sources.rope import FULL
from quantize.sources.wide_layers import gemma_layer_types, wide_size

FAMILY = "gemma4_text"
PER_LAYER_TABLE = "model.embed_tokens_per_layer.weight"
_GLOBAL_HEAD_DIM = 512  # where the configuration names none
_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
    "post_per_layer_input_norm",
)
_UNUSED = re.compile(r"model\.layers\.(\d+)\.self_attn\.([kv]_(?:proj|norm))\.(?:weight|bias)")
_FOLDED = 32  # the blocks in which the tables are stored

Shapes = dict[str, tuple[int, ...]]


def gemma4_keys(fields: Fields) -> dict[str, Any]:
    """Return the canonical keys that only this family has.

    Raises:
        QuantizeError: missing, contradictory, or not known.
    """
    layers, types = fields.count("num_hidden_layers"), gemma_layer_types(fields)
    fields.fixed("attention_k_eq_v", False)
    fields.fixed("enable_moe_block", False)
    for name in ("num_experts", "top_k_experts", "moe_intermediate_size", "num_global_key_value_heads"):
        fields.absent(name)
    if fields.value("use_bidirectional_attention") not in (None, False, "vision"):  # images alone look forward
        fields.absent("use_bidirectional_attention")
    width, vocab = fields.count("hidden_size_per_layer_input"), fields.count("vocab_size")
    if width * layers % _FOLDED:
        raise QuantizeError(
            f"hidden_size_per_layer_input in {fields.where} is {width}; with {layers} layers that is no multiple of "
            f"{_FOLDED}"
        )
    fields.fixed("vocab_size_per_layer_input", vocab)
    shared = _shared_layers(fields, types)
    wide = wide_size(fields, types, "head_dim", ("head_dim",), "global_head_dim")
    if "final_logit_softcapping" not in fields.names():
        raise fields.missing("final_logit_softcapping", "the number below which logits stay (null for none)")
    cap = fields.value("final_logit_softcapping")
    return {
        "layer_types": types,
        "sliding_window": fields.count("sliding_window"),
        "global_head_dim": wide or fields.count("global_head_dim", _GLOBAL_HEAD_DIM),
        "num_kv_shared_layers": shared,
        "use_double_wide_mlp": fields.flag("use_double_wide_mlp", False),
        "hidden_size_per_layer_input": width,
        "final_logit_softcapping": None if cap is None else fields.number("final_logit_softcapping"),
    }


def gemma4_layer(keys: Mapping[str, Any], layer: int) -> Shapes:
    """Return the tensors of a layer below its prefix, by shape."""
    hidden, head, width = keys["hidden_size"], head_dim(keys, layer), keys["hidden_size_per_layer_input"]
    is_shared = kv_layer(keys, layer) != layer
    wide = keys["intermediate_size"] * (2 if is_shared and keys["use_double_wide_mlp"] else 1)
    queries, others = keys["num_attention_heads"] * head, keys["num_key_value_heads"] * head
    shapes: Shapes = {f"{name}.weight": (hidden,) for name in _NORMS}
    shapes |= {f"mlp.{name}_proj.weight": (wide, hidden) for name in ("gate", "up")}
    shapes |= {"mlp.down_proj.weight": (hidden, wide), "layer_scalar": (1,)}
    shapes |= {"per_layer_input_gate.weight": (width, hidden), "per_layer_projection.weight": (hidden, width)}
    products = {"q_proj": (queries, hidden), "o_proj": (hidden, queries)}
    norms = ["q_norm"]
    if not is_shared:
        products |= {"k_proj": (others, hidden), "v_proj": (others, hidden)}
        norms.append("k_norm")
    for name, shape in products.items():
        shapes[f"self_attn.{name}.weight"] = shape
        if keys["attention_bias"]:
            shapes[f"self_attn.{name}.bias"] = shape[:1]
    return shapes | {f"self_attn.{name}.weight": (head,) for name in norms}


def gemma4_outer(keys: Mapping[str, Any]) -> Shapes:
    """Return the tensors of the per-layer embeddings that belong to no layer."""
    width = keys["hidden_size_per_layer_input"]
    whole = keys["num_hidden_layers"] * width
    return {
        PER_LAYER_TABLE: (keys["vocab_size"], whole),
        "model.per_layer_model_projection.weight": (whole, keys["hidden_size"]),
        "model.per_layer_projection_norm.weight": (width,),
    }


def head_dim(keys: Mapping[str, Any], layer: int) -> int:
    """Return the width of a layer's heads."""
    return int(keys["global_head_dim"] if keys["layer_types"][layer] == FULL else keys["head_dim"])


def kv_layer(keys: Mapping[str, Any], layer: int) -> int:
    """Return the layer whose keys and values a layer reads: the last of its type that has some, or itself."""
    own = keys["num_hidden_layers"] - keys["num_kv_shared_layers"]
    if layer < own:
        return layer
    return max(at for at in range(own) if keys["layer_types"][at] == keys["layer_types"][layer])


def unused_tensor(keys: Mapping[str, Any], name: str) -> str | None:
    """Return the reason why a published tensor is not read; None for one that is."""
    match = _UNUSED.fullmatch(name)
    layer = int(match[1]) if match else 0
    if match is None or layer >= keys["num_hidden_layers"] or kv_layer(keys, layer) == layer:
        return None
    return f"the layer reads the keys and values of layer {kv_layer(keys, layer)}"


def _shared_layers(fields: Fields, types: list[str]) -> int:
    """Return the number of last layers that read keys and values of others."""
    count = fields.value("num_kv_shared_layers")
    if count is None:
        raise fields.missing("num_kv_shared_layers", "the last layers that read keys and values of others")
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < len(types):
        raise QuantizeError(
            f"num_kv_shared_layers in {fields.where} is {shown(count)}; a number below {len(types)} is needed"
        )
    lacking = set(types[len(types) - count :]) - set(types[: len(types) - count])
    if lacking:
        raise QuantizeError(
            f"num_kv_shared_layers in {fields.where} is {count}; then no layer with keys and values has "
            f"{lacking.pop()}, whose layers need them"
        )
    return count
