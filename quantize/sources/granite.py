"""Granite 4's configuration: layers of attention or Mamba-2, each with one MLP, and some with experts beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from appliance.errors import QuantizeError
from quantize.sources.experts import expert_counts
from quantize.sources.fields import Fields, shown
from quantize.sources.mamba import INFINITY, mamba_tensors

ATTENTION, MAMBA = "attention", "mamba"
# As transformers 4 and 5 write them.
_KNOWN = {ATTENTION: ATTENTION, "full_attention": ATTENTION, MAMBA: MAMBA, "linear_attention": MAMBA}
_AUTO = "auto"


def hybrid_keys(fields: Fields) -> dict[str, Any]:
    """Return the canonical keys of a model whose layers are attention or Mamba-2.

    Raises:
        QuantizeError: a layer is of another kind, or its experts or positions are not known.
    """
    hidden = fields.count("hidden_size")
    types = _layer_types(fields)
    experts = _experts(fields)
    fields.fixed("head_dim", hidden // fields.count("num_attention_heads"))
    fields.fixed("normalization_function", "rmsnorm")
    if "position_embedding_type" not in fields.names():
        raise fields.missing("position_embedding_type", "which says if layers have rotary positions")
    positions = fields.choice("position_embedding_type", ("rope", "nope"), "nope")
    return {
        "layer_types": types,
        **experts,
        "shared_intermediate_size": fields.count("shared_intermediate_size"),
        "position_embedding_type": positions,
        # Without such a layer transformers still checks that its heads divide the width.
        **(_mamba_keys(fields, hidden) if MAMBA in types else {"mamba_n_heads": 1}),
    }


def mamba_layer(keys: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the tensors of Mamba-2 below its layer's prefix, by shape."""
    shapes = mamba_tensors(
        keys["hidden_size"],
        keys["mamba_n_heads"],
        keys["mamba_d_head"],
        2 * keys["mamba_d_state"],
        keys["mamba_d_conv"],
        has_conv_bias=keys["mamba_conv_bias"],
        has_bias=keys["mamba_proj_bias"],
    )
    return {f"mamba.{name}": shape for name, shape in shapes.items()}


def _experts(fields: Fields) -> dict[str, Any]:
    """Return the counts of experts, whose width is `intermediate_size`; 0 of a model without."""
    for name in ("num_local_experts", "num_experts_per_tok"):
        if name not in fields.names():
            raise fields.missing(name, "the experts of each layer (0 for none)")
    count = fields.value("num_local_experts")
    if count:
        return expert_counts(fields, "num_local_experts", "intermediate_size")
    if count is None:
        fields.defaulted.append("num_local_experts")
    fields.absent("num_local_experts")
    fields.value("num_experts_per_tok")  # of no experts
    return {"num_local_experts": 0, "num_experts_per_tok": 0}


def _layer_types(fields: Fields) -> list[str]:
    layers, types = fields.count("num_hidden_layers"), fields.value("layer_types")
    if not isinstance(types, list) or len(types) != layers:
        raise QuantizeError(
            f"layer_types in {fields.where} is {shown(types)}; {layers} names are needed, {ATTENTION!r} or {MAMBA!r}"
        )
    other = next((kind for kind in types if kind not in _KNOWN), None)
    if other is not None:
        raise QuantizeError(
            f"layer {types.index(other)} in {fields.where} is of the type {shown(other)}; {ATTENTION!r} and {MAMBA!r} "
            "are known"
        )
    found = [_KNOWN[kind] for kind in types]
    if ATTENTION not in found:
        raise QuantizeError(f"layer_types in {fields.where} has no layer of attention, which is not known")
    return found


def _mamba_keys(fields: Fields, hidden: int) -> dict[str, Any]:
    heads, expand = fields.count("mamba_n_heads"), fields.count("mamba_expand")
    size = expand * hidden
    width = size // heads if fields.value("mamba_d_head") == _AUTO else fields.count("mamba_d_head")
    if width * heads != size:
        raise QuantizeError(
            f"mamba_n_heads times mamba_d_head in {fields.where} is {width * heads}; mamba_expand times hidden_size is "
            f"{size}, and both have to be equal"
        )
    fields.fixed("mamba_n_groups", 1)
    limit = fields.value("time_step_limit")
    if limit not in (None, [0.0, math.inf], [0.0, INFINITY]):
        raise QuantizeError(f"time_step_limit in {fields.where} is {shown(limit)}; only 0 to infinity is known")
    return {
        "mamba_n_heads": heads,
        "mamba_expand": expand,
        "mamba_d_head": width,
        "mamba_n_groups": 1,
        "mamba_d_state": fields.count("mamba_d_state"),
        "mamba_d_conv": fields.kernel("mamba_d_conv"),
        "mamba_conv_bias": fields.flag("mamba_conv_bias"),
        "mamba_proj_bias": fields.flag("mamba_proj_bias"),
    }
