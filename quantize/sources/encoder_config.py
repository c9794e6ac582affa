"""The part of a text encoder's config.json that its graph depends on, for every family in the same words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from appliance.errors import QuantizeError
from quantize.sources.checkpoint import architecture_of, count_in, read_json

Activation = Literal["gelu", "silu"]

_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "mpnet"})  # the first position comes after the padding's id
_MPNET_PADDING = 1  # MPNet counts its positions from there, whatever its config says
_NOMIC_ACTIVATIONS: dict[str, Activation] = {"swiglu": "silu", "geglu": "gelu"}
_NOMIC_FIXED = {"prenorm": False, "use_rms_norm": False, "rotary_emb_interleaved": False, "rotary_emb_fraction": 1.0}
_NOMIC_FIXED |= {"parallel_block": False, "causal": False, "scale_attn_weights": True}


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """What the graph of an encoder depends on.

    `max_positions` counts the positions that a text can use; a table holds `first_position` rows before them. Layers
    whose index `global_every` divides see the whole text, the others `local_window` tokens to either side; each kind
    has its own base of rotary positions, where there are such.
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

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_heads

    def window_of(self, layer: int) -> int | None:
        """Tokens that this layer sees to either side, when it does not see them all."""
        return self.local_window if layer % self.global_every else None

    def rope_theta_of(self, layer: int) -> float | None:
        """The base of the layer's rotary positions."""
        return self.local_rope_theta if layer % self.global_every else self.rope_theta


def read_encoder_config(folder: Path) -> EncoderConfig:
    """Parse config.json.

    Raises:
        QuantizeError: a field is missing or asks for what the graph cannot do.
    """
    raw = read_json(folder / "config.json")
    architecture = architecture_of(folder)
    if architecture == "nomic_bert":
        config = _nomic(raw)
    elif architecture == "modernbert":
        config = _modernbert(raw)
    else:
        config = _bert(raw, architecture)
    if config.hidden_size % config.num_heads:
        raise QuantizeError(f"hidden_size {config.hidden_size} is not divided by {config.num_heads} attention heads")
    return config


def _bert(raw: dict[str, Any], architecture: str) -> EncoderConfig:
    _check(raw, "hidden_act", "gelu")
    _check(raw, "position_embedding_type", "absolute", default="absolute")
    first = 0
    if architecture in _OFFSET_POSITIONS:
        first = 1 + (_MPNET_PADDING if architecture == "mpnet" else count_in(raw, "pad_token_id"))
    return EncoderConfig(
        architecture=architecture,
        hidden_size=count_in(raw, "hidden_size"),
        intermediate_size=count_in(raw, "intermediate_size"),
        vocab_size=count_in(raw, "vocab_size"),
        num_layers=count_in(raw, "num_hidden_layers"),
        num_heads=count_in(raw, "num_attention_heads"),
        max_positions=count_in(raw, "max_position_embeddings") - first,
        layer_norm_eps=float(raw.get("layer_norm_eps", 1e-12)),
        first_position=first,
        num_token_types=0 if architecture == "mpnet" else count_in(raw, "type_vocab_size", 2),
    )


def _nomic(raw: dict[str, Any]) -> EncoderConfig:
    for field, value in _NOMIC_FIXED.items():
        _check(raw, field, value, default=value)
    activation = _NOMIC_ACTIVATIONS.get(str(raw.get("activation_function")))
    if activation is None:
        known = " and ".join(_NOMIC_ACTIVATIONS)
        raise QuantizeError(f"activation_function is {raw.get('activation_function')!r}; known are {known}")
    # Beyond the trained length the frequencies would depend on each text's own length.
    length = "max_trained_positions" if raw.get("rotary_scaling_factor") else "n_positions"
    return EncoderConfig(
        architecture="nomic_bert",
        hidden_size=count_in(raw, "n_embd"),
        intermediate_size=count_in(raw, "n_inner"),
        vocab_size=count_in(raw, "vocab_size"),
        num_layers=count_in(raw, "n_layer"),
        num_heads=count_in(raw, "n_head"),
        max_positions=count_in(raw, length),
        layer_norm_eps=float(raw.get("layer_norm_epsilon", 1e-12)),
        num_token_types=count_in(raw, "type_vocab_size", 2),
        activation=activation,
        rope_theta=float(raw.get("rotary_emb_base", 10000.0)),
    )


def _modernbert(raw: dict[str, Any]) -> EncoderConfig:
    _check(raw, "hidden_activation", "gelu", default="gelu")
    _check(raw, "classifier_activation", "gelu", default="gelu")
    theta = float(raw.get("global_rope_theta", 160000.0))
    local = raw.get("local_rope_theta", 10000.0)
    return EncoderConfig(
        architecture="modernbert",
        hidden_size=count_in(raw, "hidden_size"),
        intermediate_size=count_in(raw, "intermediate_size"),
        vocab_size=count_in(raw, "vocab_size"),
        num_layers=count_in(raw, "num_hidden_layers"),
        num_heads=count_in(raw, "num_attention_heads"),
        max_positions=count_in(raw, "max_position_embeddings"),
        layer_norm_eps=float(raw.get("norm_eps", 1e-5)),
        rope_theta=theta,
        local_rope_theta=theta if local is None else float(local),
        global_every=count_in(raw, "global_attn_every_n_layers", 3),
        local_window=count_in(raw, "local_attention", 128) // 2,
        classifier_pooling="mean" if raw.get("classifier_pooling") == "mean" else "cls",
    )


def _check(raw: dict[str, Any], field: str, known: object, *, default: object = None) -> None:
    if (value := raw.get(field, default)) != known:
        raise QuantizeError(f"{field} in config.json is {value!r}; only {known!r} is known")
