"""Mixtures of experts in a causal model's configuration: how many there are, and how a token gets its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from appliance.errors import QuantizeError
from quantize.sources.fields import Fields, shown
from quantize.sources.layer_names import layer_names
from quantize.sources.nemotron import FAMILY as NEMOTRON
from quantize.sources.nemotron import MLP

QWEN3, LFM2, GRANITE = "qwen3_moe", "lfm2_moe", "granitemoehybrid"
_LFM2_EPSILON = 1e-6  # beside the sum of the scores, as transformers 5 has it
_BLOCK = 32  # weights with one scale; the operator for experts takes whole blocks only

Mlp = Literal["dense", "experts", "both"]
Scores = Literal["softmax", "sigmoid"]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Experts:
    """The gated MLPs among which a router chooses some for each token.

    Attributes:
        count, chosen: all of them, and those that a token gets.
        width: the channels between an expert's two products.
        scores: the function that makes scores of the router's logits.
        is_normalized: the scores of the chosen ones are divided by their sum, to which `epsilon` is added.
        scale: the factor on the outputs.
    """

    count: int
    chosen: int
    width: int
    scores: Scores
    is_normalized: bool
    epsilon: float = 0.0
    scale: float = 1.0


def mlps(keys: Mapping[str, Any]) -> tuple[Mlp | None, ...]:
    """Return the kind of each layer's MLP; None for a layer without."""
    return tuple(_mlp(keys, layer) for layer in range(keys["num_hidden_layers"]))


def experts_of(keys: Mapping[str, Any]) -> Experts | None:
    """Return the experts of a canonical configuration, if it has any."""
    if keys["model_type"] == GRANITE and keys["num_local_experts"]:
        count, chosen, width = (
            keys[name] for name in ("num_local_experts", "num_experts_per_tok", "intermediate_size")
        )
        return Experts(count, chosen, width, scores="softmax", is_normalized=True)
    if keys["model_type"] not in (QWEN3, LFM2):
        return None
    count, chosen, width = (keys[name] for name in ("num_experts", "num_experts_per_tok", "moe_intermediate_size"))
    if keys["model_type"] == QWEN3:
        return Experts(count, chosen, width, "softmax", keys["norm_topk_prob"])
    scale: float = keys["routed_scaling_factor"]
    return Experts(count, chosen, width, "sigmoid", keys["norm_topk_prob"], epsilon=_LFM2_EPSILON, scale=scale)


def qwen3_moe_keys(fields: Fields) -> dict[str, Any]:
    """Return the canonical keys that only this family has.

    Raises:
        QuantizeError: missing, contradictory, or not known.
    """
    fields.fixed("use_sliding_window", False)
    fields.value("sliding_window")  # the width of a window that no layer has
    keys: dict[str, Any] = {
        **expert_counts(fields, "num_experts"),
        "norm_topk_prob": fields.flag("norm_topk_prob"),
        "decoder_sparse_step": fields.count("decoder_sparse_step"),
        "mlp_only_layers": _layers_without(fields),
    }
    if "experts" not in mlps({**keys, "model_type": QWEN3, "num_hidden_layers": fields.count("num_hidden_layers")}):
        raise QuantizeError(
            f"mlp_only_layers and decoder_sparse_step in {fields.where} leave no layer with experts; such a model is a "
            "qwen3"
        )
    return keys


def expert_counts(fields: Fields, count_name: str, width_name: str = "moe_intermediate_size") -> dict[str, Any]:
    """Return the number of experts, of those that a token gets, and their width; both names of the first are read.

    Raises:
        QuantizeError: missing, a token gets more than there are, or blocks of weights do not divide the widths.
    """
    other = "num_local_experts" if count_name == "num_experts" else "num_experts"
    count = fields.count(count_name if fields.has(count_name) or not fields.has(other) else other)
    for name in (count_name, other):
        fields.fixed(name, count)
    chosen, width = fields.count("num_experts_per_tok"), fields.count(width_name)
    if chosen > count:
        raise QuantizeError(f"num_experts_per_tok in {fields.where} is {chosen}; there are {count} experts")
    check_blocks(fields, width_name)
    return {count_name: count, "num_experts_per_tok": chosen, width_name: width}


def check_blocks(fields: Fields, width_name: str) -> None:
    """Refuse experts whose inputs are no whole blocks.

    Raises:
        QuantizeError: naming the width.
    """
    for name in ("hidden_size", width_name):
        if fields.count(name) % _BLOCK:
            raise QuantizeError(
                f"{name} in {fields.where} is {fields.count(name)}; that of experts is a multiple of {_BLOCK}"
            )


def mixture_tensors(keys: Mapping[str, Any], *, has_bias: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a layer's router and experts below its prefix, by shape."""
    experts, names, hidden = experts_of(keys), layer_names(keys["model_type"]).experts, keys["hidden_size"]
    assert experts is not None
    shapes: dict[str, tuple[int, ...]] = {f"{names.router}.weight": (experts.count, hidden)}
    if has_bias and names.bias is not None:
        shapes[names.bias] = (experts.count,)
    if names.joined is not None:
        return shapes | {
            f"{names.joined}.weight": (experts.count, 2 * experts.width, hidden),
            f"{names.down}.weight": (experts.count, hidden, experts.width),
        }
    wide, narrow = (experts.width, hidden), (hidden, experts.width)
    for expert in range(experts.count):
        for name, shape in ((names.gate, wide), (names.up, wide), (names.down, narrow)):
            shapes[f"{name.format(expert)}.weight"] = shape
    return shapes


def expert_weights(experts: Experts, hidden: int) -> int:
    """Return the weights of one expert."""
    return 3 * experts.width * hidden


def _mlp(keys: Mapping[str, Any], layer: int) -> Mlp | None:
    if keys["model_type"] == NEMOTRON:
        return "dense" if keys["layer_types"][layer] == MLP else None
    if keys["model_type"] == GRANITE:
        return "both" if keys["num_local_experts"] else "dense"
    if keys["model_type"] == LFM2:
        return "dense" if layer < keys["num_dense_layers"] else "experts"
    if keys["model_type"] != QWEN3:
        return "dense"
    is_plain = layer in keys["mlp_only_layers"] or (layer + 1) % keys["decoder_sparse_step"]
    return "dense" if is_plain else "experts"


def _layers_without(fields: Fields) -> list[int]:
    layers, found = fields.count("num_hidden_layers"), fields.value("mlp_only_layers")
    if "mlp_only_layers" not in fields.names():
        raise fields.missing("mlp_only_layers", "the layers without experts ([] for none)")
    if found is not None and not (
        isinstance(found, list) and all(type(layer) is int and 0 <= layer < layers for layer in found)
    ):
        raise QuantizeError(
            f"mlp_only_layers in {fields.where} is {shown(found)}; a list of layers from 0 to {layers - 1} is needed"
        )
    return sorted(set(found or []))
