"""Nemotron-H's configuration: each layer is Mamba-2, attention or an MLP alone, behind one norm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from appliance.errors import QuantizeError
from quantize.sources.fields import Fields, shown
from quantize.sources.mamba import INFINITY, mamba_tensors

FAMILY = "nemotron_h"
MAMBA, ATTENTION, MLP = "mamba", "attention", "mlp"
_EXPERTS = "moe"
# As its publisher's code and transformers 5 write them.
_TYPES = {
    **{name: name for name in (MAMBA, ATTENTION, MLP, _EXPERTS)},
    "linear_attention": MAMBA,
    "full_attention": ATTENTION,
}
_LETTERS = {"M": MAMBA, "*": ATTENTION, "-": MLP, "E": _EXPERTS}
_LISTS, _PATTERN = ("layers_block_type", "layer_types"), "hybrid_override_pattern"
_NO_LIMITS = (0.0, math.inf)
_SINCE = (5, 0)  # transformers writes the limits


def nemotron_keys(fields: Fields) -> dict[str, Any]:
    """Return the canonical keys that only this family has.

    Raises:
        QuantizeError: missing, contradictory, or not known.
    """
    epsilon = fields.number("layer_norm_epsilon")
    for name in ("rms_norm_eps", "norm_eps"):
        fields.fixed(name, epsilon)
    fields.fixed("attention_head_dim", fields.count("head_dim", 128))
    fields.fixed("position_embedding_type", "nope")
    fields.fixed("tie_word_embeddings", known=False)  # transformers never ties its head
    return {
        "layer_types": layer_types(fields),
        "intermediate_size": fields.count("intermediate_size"),
        "mlp_hidden_act": fields.choice("mlp_hidden_act", ("relu2",)),
        "layer_norm_epsilon": epsilon,
        "position_embedding_type": "nope",
        **_mamba_keys(fields),
    }


def layer_types(fields: Fields) -> list[str]:
    """Return the kind of each layer, for which there are three spellings.

    Raises:
        QuantizeError: none of them is there, two differ, or a layer is of another kind.
    """
    found: dict[str, list[str]] = {}
    for name in _LISTS:
        value = fields.value(name)
        if value is not None:
            found[name] = _known(fields, name, value if isinstance(value, list) else None, _TYPES)
    value = fields.value(_PATTERN)
    if value is not None:
        found[_PATTERN] = _known(fields, _PATTERN, list(value) if isinstance(value, str) else None, _LETTERS)
    if not found:
        raise fields.missing(f"{_LISTS[0]} and no {_PATTERN}", "one of which names the kind of each layer")
    name, types = next(iter(found.items()))
    other = next((key for key, named in found.items() if named != types), None)
    if other is not None:
        raise QuantizeError(f"{name} and {other} in {fields.where} differ; keep the right one")
    if fields.has("num_hidden_layers") and fields.count("num_hidden_layers") != len(types):
        raise QuantizeError(
            f"{name} in {fields.where} names {len(types)} layers, but num_hidden_layers is "
            f"{fields.count('num_hidden_layers')}"
        )
    fields.value("num_hidden_layers")
    return types


def nemotron_layer(keys: Mapping[str, Any], layer: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a layer below its prefix, by shape."""
    kind, hidden, wide = keys["layer_types"][layer], keys["hidden_size"], keys["intermediate_size"]
    if kind == MAMBA:
        shared = 2 * keys["n_groups"] * keys["ssm_state_size"]
        shapes = mamba_tensors(
            hidden,
            keys["mamba_num_heads"],
            keys["mamba_head_dim"],
            shared,
            keys["conv_kernel"],
            has_conv_bias=keys["use_conv_bias"],
            has_bias=keys["use_bias"],
        )
    elif kind == MLP:
        shapes = {"up_proj.weight": (wide, hidden), "down_proj.weight": (hidden, wide)}
        if keys["mlp_bias"]:
            shapes |= {"up_proj.bias": (wide,), "down_proj.bias": (hidden,)}
    else:
        queries = keys["num_attention_heads"] * keys["head_dim"]
        others = keys["num_key_value_heads"] * keys["head_dim"]
        shapes = {
            "q_proj.weight": (queries, hidden),
            "k_proj.weight": (others, hidden),
            "v_proj.weight": (others, hidden),
            "o_proj.weight": (hidden, queries),
        }
    return {"norm.weight": (hidden,), **{f"mixer.{name}": shape for name, shape in shapes.items()}}


def plain_name(name: str) -> str:
    """Return the canonical name of a tensor, which its publisher's code and transformers name otherwise."""
    plain = f"model.{name.removeprefix('backbone.')}" if name.startswith("backbone.") else name
    return plain.replace("model.embeddings.", "model.embed_tokens.", 1)


def published_name(name: str) -> str:
    """Return the name that a tensor of a canonical name has in published files."""
    plain = name.replace("model.embed_tokens.", "model.embeddings.", 1)
    return f"backbone.{plain.removeprefix('model.')}" if plain.startswith("model.") else plain


def _known(fields: Fields, name: str, values: list[Any] | None, known: Mapping[str, str]) -> list[str]:
    if not values or not all(isinstance(value, str) for value in values):
        raise QuantizeError(
            f"{name} in {fields.where} is {shown(fields.value(name))}; a kind for each layer is needed, out of "
            f"{', '.join(known)}"
        )
    for layer, value in enumerate(values):
        if value not in known:
            raise QuantizeError(
                f"{name} in {fields.where} says {shown(value)} for layer {layer}; known are {', '.join(known)}"
            )
        if known[value] == _EXPERTS:
            raise QuantizeError(
                f"{name} in {fields.where} says {shown(value)} for layer {layer}: experts with a squared ReLU, which "
                "onnxruntime's operator for experts does not compute"
            )
    types = [known[value] for value in values]
    if not {MAMBA, ATTENTION} <= set(types):
        raise QuantizeError(
            f"{name} in {fields.where} has no layer of {MAMBA} or none of {ATTENTION}, which is not known"
        )
    return types


def _mamba_keys(fields: Fields) -> dict[str, Any]:
    heads, groups = fields.count("mamba_num_heads"), fields.count("n_groups")
    if heads % groups:
        raise QuantizeError(f"mamba_num_heads in {fields.where} is {heads}, which n_groups, {groups}, does not divide")
    return {
        "mamba_num_heads": heads,
        "mamba_head_dim": fields.count("mamba_head_dim"),
        "ssm_state_size": fields.count("ssm_state_size"),
        "n_groups": groups,
        "conv_kernel": fields.kernel("conv_kernel"),
        "mamba_hidden_act": fields.choice("mamba_hidden_act", ("silu",)),
        "use_conv_bias": fields.flag("use_conv_bias", default=True),
        "use_bias": fields.flag("use_bias", default=False),
        "time_step_limit": _limits(fields),
    }


def _limits(fields: Fields) -> list[float]:
    """Return the least and the largest step; older files of the publisher leave them out, which means none.

    transformers 5.24 takes the least step of a prompt from time_step_min (huggingface/transformers#48989), which the
    publisher's code uses in training alone.
    """
    value = fields.value("time_step_limit")
    if value is None:
        if fields.is_written_since(_SINCE):
            raise fields.missing("time_step_limit", "the limits of the steps ([0, Infinity] for none)")
        fields.defaulted.append("time_step_limit")
        return [*_NO_LIMITS]
    found = [math.inf if item == INFINITY else item for item in value] if isinstance(value, list) else []
    is_numeric = all(isinstance(item, int | float) and not isinstance(item, bool) for item in found)
    if len(found) != 2 or not is_numeric or not 0 <= found[0] < found[1]:
        raise QuantizeError(
            f"time_step_limit in {fields.where} is {shown(value)}; the least and the largest step are needed"
        )
    return [float(item) for item in found]
