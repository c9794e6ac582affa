"""A causal model's configuration in one canonical form: transformers 4's spelling, complete, nothing unknown.

The same model gives the same form, whether transformers 4 or 5 or a GGUF file's metadata described it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.errors import QuantizeError
from quantize.sources import ignored
from quantize.sources.classes import body_class, check_class
from quantize.sources.embedding_gemma2 import embedding_gemma2_keys
from quantize.sources.experts import experts_of, qwen3_moe_keys
from quantize.sources.families import (
    ATTENTION_BIAS,
    BIDIRECTIONAL,
    CLASSES,
    GEMMA,
    GEMMA3_DEFAULTS,
    GRANITE,
    HEAD_DIMS,
    LIQUID,
    MLP_BIAS,
    NESTED,
    NEWER_THAN_TORCH,
    OWN_EMPTY,
    OWN_WINDOWS,
    PARTIAL,
    PARTIAL_SINCE,
    SCALING_SINCE,
    TIED_BY_DEFAULT,
    TWO_BASES,
)
from quantize.sources.fields import Fields, shown
from quantize.sources.gemma4 import gemma4_keys
from quantize.sources.granite import hybrid_keys
from quantize.sources.lfm2 import lfm2_is_tied, lfm2_keys, lfm2_moe_keys
from quantize.sources.lfm3 import lfm3_keys
from quantize.sources.nemotron import FAMILY as NEMOTRON
from quantize.sources.nemotron import layer_types, nemotron_keys
from quantize.sources.qwen35 import qwen35_keys
from quantize.sources.rope import Rope, check_factors, read_rope
from quantize.sources.windows import window_keys

_OWN_KEYS = {
    "lfm2": lfm2_keys,
    "lfm2_moe": lfm2_moe_keys,
    "lfm3": lfm3_keys,
    "qwen3_5_text": qwen35_keys,
    "gemma4_text": gemma4_keys,
    "embedding_gemma2_text": embedding_gemma2_keys,
    "qwen3_moe": qwen3_moe_keys,
    NEMOTRON: nemotron_keys,
}

Canonical = dict[str, Any]


def why_not_searched(config: Mapping[str, Any]) -> str | None:
    """Return the reason why no search weighs the parts of a model; None if one can."""
    family = config["model_type"]
    if family in NEWER_THAN_TORCH:
        return f"a search weighs the parts with transformers 4, which does not know {family}"
    if experts_of(config) is not None:
        return "a search does not weigh experts, of which a text gives each a few tokens only"
    return None


@dataclass(frozen=True, slots=True)
class DecoderKeys:
    """The canonical configuration, what was left out of it with the reason, and the absent keys that got a default."""

    config: Canonical
    left_out: Mapping[str, str]
    tie_is_stated: bool
    defaulted: tuple[str, ...] = ()


def read_decoder_keys(raw: Mapping[str, Any], where: str = "config.json", *, is_body: bool = False) -> DecoderKeys:
    """Return the canonical form of a configuration; `is_body`: of a model whose hidden states become a vector.

    Raises:
        QuantizeError: a key is missing, not known, or asks for what no graph here computes.
    """
    left_out: dict[str, str] = {}
    if raw.get("model_type") in NESTED:
        raw, left_out = _text_part(raw, where)
    family = str(raw.get("model_type"))
    fields = Fields(raw, where, family)
    fields.value("model_type")
    check_class(fields, family, is_body=is_body)
    config: Canonical = {}
    for name in ignored.MUST_BE_EMPTY:
        if is_body and name == BIDIRECTIONAL and family == "gemma3_text":
            config = {name: True} if fields.flag(name, False) else {}
        elif name not in OWN_EMPTY.get(family, ()):
            fields.absent(name)
    config |= _base(fields, family)
    if is_body:
        config["architectures"] = [body_class(family)]
    config |= _rope_keys(fields, config, family)
    if family not in OWN_WINDOWS:
        config |= window_keys(fields, config["num_hidden_layers"], family)
    config |= _family_keys(fields, family)
    stated = fields.has("tie_word_embeddings")
    config["tie_word_embeddings"] = (
        lfm2_is_tied(fields) if family in LIQUID else fields.flag("tie_word_embeddings", family in TIED_BY_DEFAULT)
    )
    left_out |= fields.left_out({**ignored.COMMON, **ignored.DECODERS[family]})
    return DecoderKeys(config, left_out, stated, tuple(fields.defaulted))


def _text_part(raw: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Return the text model's part of a configuration for text and images, with its publisher's defaults."""
    outer = Fields(raw, where, str(raw["model_type"]))
    text = outer.value("text_config")
    if not isinstance(text, dict):
        raise QuantizeError(f"text_config in {where} is {shown(text)}; the text model's configuration is needed")
    outer.value("model_type")
    outer.value("architectures")
    kept = {
        name: value
        for name in ("bos_token_id", "eos_token_id", "tie_word_embeddings")
        if (value := outer.value(name)) is not None
    }
    kind = str(raw["model_type"])
    left_out = outer.left_out({**ignored.COMMON, **ignored.IMAGES[kind]})
    defaults = dict(GEMMA3_DEFAULTS if kind == "gemma3" else {})
    if text.get("rope_parameters"):
        for name in ("rope_theta", "rope_local_base_freq", "rope_scaling"):
            defaults.pop(name, None)
    if text.get("layer_types"):
        defaults.pop("sliding_window_pattern", None)
    stated = {name: value for name, value in text.items() if value is not None}
    return {"model_type": NESTED[kind], **defaults, **kept, **stated}, left_out


def _base(fields: Fields, family: str) -> Canonical:
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    kv_heads = fields.count("num_key_value_heads", heads)
    if heads % kv_heads:
        raise QuantizeError(f"{fields.where} has {heads} attention heads, which {kv_heads} key heads do not divide")
    vocab = fields.count("vocab_size")
    config: Canonical = {
        "architectures": [CLASSES[family]],
        "model_type": family,
        "dtype": "float32",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_hidden_layers": len(layer_types(fields)) if family == NEMOTRON else fields.count("num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": fields.count("head_dim", HEAD_DIMS.get(family, max(1, hidden // heads))),
        "max_position_embeddings": fields.count("max_position_embeddings"),
        "bos_token_id": fields.token("bos_token_id", vocab),
        "eos_token_id": list(fields.tokens("eos_token_id", vocab)) or None,
        "pad_token_id": None,
    }
    if family not in LIQUID | {NEMOTRON}:  # which name them otherwise
        config["intermediate_size"] = fields.count("intermediate_size")
        config["rms_norm_eps"] = fields.number("rms_norm_eps")
    if family in GEMMA:
        config["hidden_activation"] = fields.choice("hidden_activation", ("gelu_pytorch_tanh",))
        fields.fixed("hidden_act", "gelu_pytorch_tanh")
    elif family in LIQUID:
        fields.fixed("hidden_act", "silu")
    elif family != NEMOTRON:
        config["hidden_act"] = fields.choice("hidden_act", ("silu",))
    if family in ATTENTION_BIAS:
        config["attention_bias"] = fields.flag("attention_bias", False)
    else:
        fields.fixed("attention_bias", family == "qwen2")
    if family in MLP_BIAS:
        config["mlp_bias"] = fields.flag("mlp_bias", False)
    else:
        fields.fixed("mlp_bias", False)
    return config


def _rope_keys(fields: Fields, config: Canonical, family: str) -> Canonical:
    if family == NEMOTRON:  # its attention has no positions
        return {}
    rope = read_rope(fields, scaling_required=_is_written(fields, SCALING_SINCE.get(family, (4, 0))))
    if family == "mistral" and rope.scaling is not None:
        raise QuantizeError(f"{fields.where} asks for {rope.kind!r} RoPE, which is not known for mistral")
    partial = _partial(fields, rope, family)
    rotary_dim = int(config["head_dim"] * partial)
    check_factors(rope, rotary_dim)
    keys: Canonical = {"rope_theta": rope.theta, "rope_scaling": rope.scaling}
    if family in LIQUID:
        fields.fixed("theta", rope.theta)  # their publisher's older name
    if family in PARTIAL:
        keys["partial_rotary_factor"] = partial
    if family in TWO_BASES:
        keys["rope_local_base_freq"] = _local_theta(fields, rope)
    if rope.kind == "longrope":
        keys |= _trained_length(fields, rope)
    return keys


def _partial(fields: Fields, rope: Rope, family: str) -> float:
    if family not in PARTIAL:
        fields.fixed("partial_rotary_factor", 1.0)
        if rope.partial not in (None, 1.0):
            raise QuantizeError(
                f"partial_rotary_factor in {fields.where} is {rope.partial}; only 1.0 is known for {family}"
            )
        return 1.0
    if fields.has("partial_rotary_factor"):
        value = fields.number("partial_rotary_factor")
        if rope.partial not in (None, value):
            raise QuantizeError(f"partial_rotary_factor and rope_parameters in {fields.where} differ")
        return value
    if rope.partial is None and (fields.has("rope_parameters") or _is_written(fields, PARTIAL_SINCE)):
        raise fields.missing("partial_rotary_factor", "the part of each head that turns")
    return 1.0 if rope.partial is None else rope.partial


def _local_theta(fields: Fields, rope: Rope) -> float:
    if rope.local_theta is not None:
        if fields.has("rope_local_base_freq") and fields.number("rope_local_base_freq") != rope.local_theta:
            raise QuantizeError(
                f"rope_local_base_freq and rope_parameters in {fields.where} differ; keep the right one"
            )
        return rope.local_theta
    if not fields.has("rope_local_base_freq"):
        name = "sliding_attention in rope_parameters" if fields.has("rope_parameters") else "rope_local_base_freq"
        raise fields.missing(name, "the base of the positions in layers with a window")
    return fields.number("rope_local_base_freq")


def _trained_length(fields: Fields, rope: Rope) -> Canonical:
    """Return the length up to which longrope's short factors hold, for transformers a key beside `rope_scaling`."""
    assert rope.scaling is not None
    inner = rope.scaling.pop("original_max_position_embeddings", None)
    if not fields.has("original_max_position_embeddings") and inner is None:
        raise fields.missing("original_max_position_embeddings", "the length for which longrope was trained")
    length = fields.count("original_max_position_embeddings", inner)
    if inner not in (None, length):
        raise QuantizeError(
            f"original_max_position_embeddings is {length} and {inner} in {fields.where}; keep the right one"
        )
    return {"original_max_position_embeddings": length}


def _family_keys(fields: Fields, family: str) -> Canonical:
    keys: Canonical = {}
    if family in _OWN_KEYS:
        keys = _OWN_KEYS[family](fields)
    elif family == "granite":
        keys = {name: fields.number(name) for name in GRANITE}
    elif family == "granitemoehybrid":
        keys = {name: fields.number(name) for name in GRANITE} | hybrid_keys(fields)
    elif family == "gemma3_text":
        keys = {"query_pre_attn_scalar": fields.number("query_pre_attn_scalar")}
        fields.value("sliding_window_pattern")  # layer_types says it
    elif family == "phi3":
        fields.fixed("full_attn_mod", 1)  # every layer has the same attention
        fields.fixed("lm_head_bias", False)
    elif family == "smollm3":
        keys = {"no_rope_layers": _no_rope_layers(fields)}
    return keys


def _no_rope_layers(fields: Fields) -> list[int]:
    values, layers = fields.value("no_rope_layers"), fields.count("num_hidden_layers")
    if not isinstance(values, list) or len(values) != layers or not all(value in (0, 1) for value in values):
        raise QuantizeError(
            f"no_rope_layers in {fields.where} is {shown(values)}; a list of {layers} ones and zeros is needed"
        )
    return [int(value) for value in values]


def _is_written(fields: Fields, since: tuple[int, int] | None) -> bool:
    """Return True if the transformers that wrote the file always writes the key, so that its absence is a loss."""
    is_new = fields.is_written_since(since or (4, 0))
    return since is not None and (since == (4, 0) or is_new)
