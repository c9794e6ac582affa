"""LFM2's configuration: layers of short convolution and of attention, in its publisher's spelling and transformers'.

The models with experts have one spelling, and plain MLPs in their first layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.errors import QuantizeError
from quantize.sources.experts import expert_counts, mixture_tensors, mlps
from quantize.sources.fields import Fields, shown
from quantize.sources.rope import FULL

CONV = "conv"
# Other names of the same number, which both spellings may have.
_WIDTHS = ("block_dim", "conv_dim", "conv_dim_out")


def lfm2_keys(fields: Fields) -> dict[str, Any]:
    """Return the canonical keys that only this family has.

    Raises:
        QuantizeError: missing, contradictory, or not known.
    """
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    epsilon = fields.number("norm_eps")
    for name in _WIDTHS:
        fields.fixed(name, hidden)
    fields.fixed("num_heads", heads)
    fields.fixed("head_dim", hidden // heads)
    fields.fixed("block_norm_eps", epsilon)
    fields.fixed("block_use_swiglu", True)
    fields.fixed("use_pos_enc", True)
    return {
        "norm_eps": epsilon,
        "intermediate_size": _mlp_width(fields),
        "block_auto_adjust_ff_dim": False,  # intermediate_size is the width itself
        "layer_types": _layer_types(fields),
        **conv_keys(fields),
    }


def lfm2_moe_keys(fields: Fields) -> dict[str, Any]:
    """Return the canonical keys of the models with experts.

    Raises:
        QuantizeError: missing, contradictory, or not known.
    """
    layers = fields.count("num_hidden_layers")
    dense = fields.value("num_dense_layers")
    if type(dense) is not int or not 0 <= dense < layers:
        raise QuantizeError(
            f"num_dense_layers in {fields.where} is {shown(dense)}; a number from 0 to {layers - 1} is needed"
        )
    fields.fixed("head_dim", fields.count("hidden_size") // fields.count("num_attention_heads"))
    return {
        "norm_eps": fields.number("norm_eps"),
        "intermediate_size": fields.count("intermediate_size"),
        "layer_types": _layer_types(fields),
        "num_dense_layers": dense,
        "norm_topk_prob": fields.flag("norm_topk_prob"),
        "use_expert_bias": fields.flag("use_expert_bias"),
        "routed_scaling_factor": fields.number("routed_scaling_factor"),
        **expert_counts(fields, "num_experts"),
        **conv_keys(fields),
    }


def conv_keys(fields: Fields) -> dict[str, Any]:
    """Return the canonical keys of the short convolutions.

    Raises:
        QuantizeError: missing, or a convolution over one token.
    """
    return {"conv_L_cache": fields.kernel("conv_L_cache"), "conv_bias": fields.flag("conv_bias")}


def lfm2_is_tied(fields: Fields) -> bool:
    """Return True if the head is the embedding; transformers reads the publisher's key before its own."""
    tied = fields.flag("tie_word_embeddings", default=True)
    if not fields.has("tie_embedding"):
        fields.value("tie_embedding")
        return tied
    if fields.has("tie_word_embeddings") and fields.flag("tie_embedding") is not tied:
        raise QuantizeError(f"tie_embedding and tie_word_embeddings in {fields.where} differ; keep the right one")
    return fields.flag("tie_embedding")


def lfm2_layer(keys: Mapping[str, Any], layer: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a layer below its prefix, by shape."""
    hidden, wide, head = keys["hidden_size"], keys["intermediate_size"], keys["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {"operator_norm.weight": (hidden,), "ffn_norm.weight": (hidden,)}
    if mlps(keys)[layer] == "experts":
        shapes |= mixture_tensors(keys, has_bias=keys["use_expert_bias"])
    else:
        shapes |= {f"feed_forward.{name}.weight": (wide, hidden) for name in ("w1", "w3")}
        shapes["feed_forward.w2.weight"] = (hidden, wide)
    if keys["layer_types"][layer] == CONV:
        return shapes | conv_layer(keys)
    queries, others = keys["num_attention_heads"] * head, keys["num_key_value_heads"] * head
    return shapes | {
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (others, hidden),
        "self_attn.v_proj.weight": (others, hidden),
        "self_attn.out_proj.weight": (hidden, queries),
        "self_attn.q_layernorm.weight": (head,),
        "self_attn.k_layernorm.weight": (head,),
    }


def conv_layer(keys: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a short convolution, by shape."""
    hidden = keys["hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "conv.conv.weight": (hidden, 1, keys["conv_L_cache"]),
        "conv.in_proj.weight": (3 * hidden, hidden),
        "conv.out_proj.weight": (hidden, hidden),
    }
    if keys["conv_bias"]:
        shapes |= {"conv.conv.bias": (hidden,), "conv.in_proj.bias": (3 * hidden,), "conv.out_proj.bias": (hidden,)}
    return shapes


def _mlp_width(fields: Fields) -> int:
    """Return the width of the MLP, which the publisher writes before two thirds of it are taken and rounded up."""
    name = "block_ff_dim" if fields.has("block_ff_dim") else "intermediate_size"
    width = fields.count(name)
    if fields.has("intermediate_size") and fields.count("intermediate_size") != width:
        raise QuantizeError(f"block_ff_dim and intermediate_size in {fields.where} differ; keep the right one")
    is_adjusted = fields.flag("block_auto_adjust_ff_dim")
    multiplier = fields.value("block_ffn_dim_multiplier")
    fields.value("block_multiple_of")
    if not is_adjusted:
        return width
    width = int(2 * width / 3)
    if multiplier is None:
        if "block_ffn_dim_multiplier" not in fields.names():
            raise fields.missing("block_ffn_dim_multiplier", "the factor on the MLP's width (null for none)")
        return width
    step = fields.count("block_multiple_of")
    return step * -(-int(fields.number("block_ffn_dim_multiplier") * width) // step)


def _layer_types(fields: Fields) -> list[str]:
    layers = fields.count("num_hidden_layers")
    types, indices = fields.value("layer_types"), fields.value("full_attn_idxs")
    if types is None and indices is None:
        raise fields.missing("layer_types", "which says which layers are convolutions")
    if indices is not None:
        if not isinstance(indices, list) or not all(type(index) is int and 0 <= index < layers for index in indices):
            raise QuantizeError(
                f"full_attn_idxs in {fields.where} is {shown(indices)}; numbers of {layers} layers are needed"
            )
        named = [FULL if layer in indices else CONV for layer in range(layers)]
        if types not in (None, named):
            raise QuantizeError(f"layer_types and full_attn_idxs in {fields.where} differ; keep the right one")
        types = named
    if not isinstance(types, list) or len(types) != layers or not all(kind in (FULL, CONV) for kind in types):
        raise QuantizeError(
            f"layer_types in {fields.where} is {shown(types)}; {layers} names are needed, {FULL!r} or {CONV!r}"
        )
    if FULL not in types:
        raise QuantizeError(f"layer_types in {fields.where} has no layer of attention, which is not known")
    return list(types)
