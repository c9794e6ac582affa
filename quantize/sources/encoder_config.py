"""The part of a text encoder's config.json that its graph depends on, for every family in the same words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from appliance.errors import QuantizeError
from quantize.sources import ignored
from quantize.sources.fields import Fields, read_json, shown
from quantize.sources.modernbert import bases, global_every

Activation = Literal["gelu", "silu"]

_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "mpnet"})  # the first position comes after the padding's id
_MPNET_PADDING = 1  # MPNet counts its positions from there, whatever its config says
_NOMIC_ACTIVATIONS: dict[str, Activation] = {"swiglu": "silu", "geglu": "gelu"}
_NOMIC_FIXED = {"prenorm": False, "use_rms_norm": False, "rotary_emb_interleaved": False, "rotary_emb_fraction": 1.0}
_NOMIC_FIXED |= {"parallel_block": False, "causal": False, "scale_attn_weights": True}
_NOMIC_FIXED |= {"scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False}
_NOMIC_FIXED |= {"parallel_block_tied_norm": False, "add_pooling_layer": False}
# The group of products and norms that each key gives a bias.
_NOMIC_BIASES = {"qkv_proj_bias": "attention", "mlp_fc1_bias": "ffn_in", "mlp_fc2_bias": "ffn_out"}
_MODERNBERT_BIASES = {
    "attention_bias": "attention",
    "mlp_bias": "ffn",
    "norm_bias": "norm",
    "classifier_bias": "classifier",
}
_CLASS_PREFIXES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "mpnet": "MPNet",
    "nomic_bert": "NomicBert",
    "modernbert": "ModernBert",
}
ENCODERS = frozenset(_CLASS_PREFIXES)
_CLASSIFIER = "ForSequenceClassification"


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The part of config.json that the graph of an encoder depends on.

    `max_positions` counts the positions that a text can use; a table holds `first_position` rows before them. Layers
    whose index `global_every` divides see the whole text, the others `local_window` tokens to either side; each kind
    has its own base of rotary positions, where there are such. `biased` names the groups of products and norms with
    a bias, in families that have a choice.
    """

    architecture: str
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    num_layers: int
    num_heads: int
    max_positions: int
    layer_norm_eps: float
    first_position: int = 0
    num_token_types: int = 0
    activation: Activation = "gelu"
    rope_theta: float | None = None
    local_rope_theta: float | None = None
    global_every: int = 1
    local_window: int | None = None
    classifier_pooling: Literal["cls", "mean"] = "cls"
    num_buckets: int = 32
    biased: frozenset[str] = frozenset()

    @property
    def output_size(self) -> int:
        """Return the numbers that the model gives for each token."""
        return self.hidden_size

    @property
    def head_dim(self) -> int:
        """Return the channels of one attention head."""
        return self.hidden_size // self.num_heads

    def window_of(self, layer: int) -> int | None:
        """Return the tokens that this layer sees to either side, or None if it sees them all."""
        return self.local_window if layer % self.global_every else None

    def rope_theta_of(self, layer: int) -> float | None:
        """Return the base of the layer's rotary positions."""
        return self.local_rope_theta if layer % self.global_every else self.rope_theta


@dataclass(frozen=True, slots=True)
class EncoderKeys:
    """The facts that the graph depends on, the canonical config.json (transformers 4's spelling), and what is left out.

    `defaulted` names the absent keys that got a default.
    """

    config: EncoderConfig
    canonical: Mapping[str, Any]
    left_out: Mapping[str, str]
    defaulted: tuple[str, ...] = ()


def read_encoder_config(folder: Path) -> EncoderConfig:
    """Parse config.json.

    Raises:
        QuantizeError: a key is missing, not known, or asks for what the graph cannot do.
    """
    return read_encoder_keys(read_json(folder / "config.json")).config


def read_encoder_keys(raw: Mapping[str, Any]) -> EncoderKeys:
    """Return the canonical form of a text encoder's configuration.

    Raises:
        QuantizeError: a key is missing, not known, or asks for what the graph cannot do.
    """
    family = str(raw.get("model_type"))
    if family not in ENCODERS:
        raise QuantizeError(
            f"config.json names the architecture {family!r} (model_type); known are {', '.join(sorted(ENCODERS))}"
        )
    fields = Fields(raw, "config.json", family)
    fields.value("model_type")
    for name in ignored.MUST_BE_EMPTY:
        fields.absent(name)
    fields.fixed("is_decoder", False)
    classes = _classes(fields, family)
    is_reranker = any(name.endswith(_CLASSIFIER) for name in classes)
    match family:
        case "nomic_bert":
            config, rotary = _nomic(fields), None
        case "modernbert":
            config, rotary = _modernbert(fields, is_reranker=is_reranker)
        case _:
            config, rotary = _bert(fields, family), None
    if config.hidden_size % config.num_heads:
        raise QuantizeError(f"hidden_size {config.hidden_size} is not divided by {config.num_heads} attention heads")
    left_out = fields.left_out({**ignored.COMMON, **ignored.ENCODER_COMMON, **ignored.ENCODERS[family]})
    dropped = {"rope_parameters", "layer_types", *left_out}
    stated = {name: value for name, value in raw.items() if name not in dropped and value is not None}
    canonical = {**_stated_defaults(family), **stated, **(rotary or {})}
    canonical["pad_token_id"] = raw["pad_token_id"] if family in _OFFSET_POSITIONS - {"mpnet"} else None
    if family != "nomic_bert":
        canonical["dtype"] = "float32"
    if is_reranker:
        canonical["id2label"] = raw.get("id2label") or {"0": "LABEL_0"}
        if canonical["pad_token_id"] is None:  # optimum 2.1 exports no classifier without one; no result depends on it
            canonical["pad_token_id"] = 0
    else:
        canonical["architectures"] = [f"{_CLASS_PREFIXES[family]}Model"]
    return EncoderKeys(config, canonical, left_out, tuple(fields.defaulted))


def _stated_defaults(family: str) -> dict[str, Any]:
    """Return what the absence of optional keys means."""
    match family:
        case "nomic_bert":
            rest = {"type_vocab_size": 2, "rotary_scaling_factor": None}
            return {**_NOMIC_FIXED, **dict.fromkeys(_NOMIC_BIASES, False), **rest}
        case "modernbert":
            return {
                **dict.fromkeys(_MODERNBERT_BIASES, False),
                "classifier_activation": "gelu",
                "classifier_pooling": "cls",
            }
        case "mpnet":
            return {"relative_attention_num_buckets": 32}
        case _:
            return {"position_embedding_type": "absolute", "type_vocab_size": 2}


def _classes(fields: Fields, family: str) -> list[str]:
    names = fields.value("architectures")
    if names is None:
        fields.defaulted.append("architectures")
        return []
    prefix = _CLASS_PREFIXES[family]
    if not isinstance(names, list) or not all(isinstance(name, str) and name.startswith(prefix) for name in names):
        raise QuantizeError(f"architectures in config.json is {shown(names)}; classes of {family} begin with {prefix}")
    return [str(name) for name in names]


def _bert(fields: Fields, family: str) -> EncoderConfig:
    fields.choice("hidden_act", ("gelu",))
    fields.choice("position_embedding_type", ("absolute",), "absolute")
    first = 0
    if family in _OFFSET_POSITIONS:
        first = 1 + (_MPNET_PADDING if family == "mpnet" else fields.count("pad_token_id"))
    config = EncoderConfig(
        architecture=family,
        hidden_size=fields.count("hidden_size"),
        intermediate_size=fields.count("intermediate_size"),
        vocab_size=fields.count("vocab_size"),
        num_layers=fields.count("num_hidden_layers"),
        num_heads=fields.count("num_attention_heads"),
        max_positions=fields.count("max_position_embeddings") - first,
        layer_norm_eps=fields.number("layer_norm_eps"),
        first_position=first,
        num_token_types=0 if family == "mpnet" else fields.count("type_vocab_size", 2),
        num_buckets=fields.count("relative_attention_num_buckets", 32) if family == "mpnet" else 32,
    )
    if config.max_positions < 1:
        raise QuantizeError(f"max_position_embeddings in config.json leaves no position after the first {first}")
    return config


def _nomic(fields: Fields) -> EncoderConfig:
    for field, value in _NOMIC_FIXED.items():
        fields.fixed(field, value)
    for field in ("rotary_emb_scale_base", "moe_every_n_layers", "num_shared_experts", "moe_top_k"):
        fields.absent(field)
    word = fields.choice("activation_function", _NOMIC_ACTIVATIONS)
    if "rotary_scaling_factor" not in fields.names():
        raise fields.missing("rotary_scaling_factor", "which says how its positions are scaled (null for not at all)")
    # Beyond the trained length the frequencies would depend on each text's own length.
    length = "max_trained_positions" if fields.value("rotary_scaling_factor") else "n_positions"
    fields.value("n_positions")
    return EncoderConfig(
        architecture="nomic_bert",
        hidden_size=fields.count("n_embd"),
        intermediate_size=fields.count("n_inner"),
        vocab_size=fields.count("vocab_size"),
        num_layers=fields.count("n_layer"),
        num_heads=fields.count("n_head"),
        max_positions=fields.count(length),
        layer_norm_eps=fields.number("layer_norm_epsilon"),
        num_token_types=fields.count("type_vocab_size", 2) if fields.value("type_vocab_size") != 0 else 0,
        activation=_NOMIC_ACTIVATIONS[word],
        rope_theta=fields.number("rotary_emb_base"),
        biased=frozenset(group for name, group in _NOMIC_BIASES.items() if fields.flag(name, False)),
    )


def _modernbert(fields: Fields, *, is_reranker: bool) -> tuple[EncoderConfig, dict[str, Any]]:
    fields.choice("hidden_activation", ("gelu",))
    fields.choice("classifier_activation", ("gelu",), "gelu")
    theta, local = bases(fields)
    every = global_every(fields)
    if is_reranker and not fields.has("classifier_pooling"):
        raise fields.missing("classifier_pooling", "which says what the score is made of")
    pooling = fields.choice("classifier_pooling", ("cls", "mean"), "cls")
    config = EncoderConfig(
        architecture="modernbert",
        hidden_size=fields.count("hidden_size"),
        intermediate_size=fields.count("intermediate_size"),
        vocab_size=fields.count("vocab_size"),
        num_layers=fields.count("num_hidden_layers"),
        num_heads=fields.count("num_attention_heads"),
        max_positions=fields.count("max_position_embeddings"),
        layer_norm_eps=fields.number("norm_eps"),
        rope_theta=theta,
        local_rope_theta=local,
        global_every=every,
        local_window=fields.count("local_attention") // 2,
        classifier_pooling="mean" if pooling == "mean" else "cls",
        biased=frozenset(group for name, group in _MODERNBERT_BIASES.items() if fields.flag(name, False)),
    )
    return config, {"global_rope_theta": theta, "local_rope_theta": local, "global_attn_every_n_layers": every}
