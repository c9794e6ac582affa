"""What a checkpoint folder says of itself: config.json and its neighbours, checked against the weights."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import QuantizeError

DECODERS = frozenset({"llama", "qwen2", "qwen3", "gemma3_text", "phi3", "mistral"})
ENCODERS = frozenset({"bert", "roberta", "xlm-roberta"})
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta"})  # their first position comes after the padding token's id
_MAX_HEADER_BYTES = 100 << 20
_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The part of a causal model's config.json that the graph depends on."""

    architecture: str
    hidden_size: int
    vocab_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    sliding_window: int | None
    layer_types: tuple[str, ...] | None
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    def window_of(self, layer: int) -> int | None:
        """Tokens that this layer looks back, when it does not see them all."""
        if self.layer_types is not None and self.layer_types[layer] != "sliding_attention":
            return None
        return self.sliding_window


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The part of a text encoder's config.json that the graph depends on.

    `max_positions` counts the positions that a text can use; the table holds `first_position` rows before them.
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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        QuantizeError: absent or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise QuantizeError(f"the checkpoint has no {path.name}") from err
    except (ValueError, RecursionError) as err:
        raise QuantizeError(f"{path.name} is not JSON; copy the checkpoint again") from err
    if not isinstance(value, dict):
        raise QuantizeError(f"{path.name} is not a JSON object; copy the checkpoint again")
    return value


def architecture_of(folder: Path) -> str:
    """The model type, when it is one that can be built.

    Raises:
        QuantizeError: unknown.
    """
    name = read_json(folder / "config.json").get("model_type")
    if name not in DECODERS | ENCODERS:
        known = ", ".join(sorted(DECODERS | ENCODERS))
        raise QuantizeError(f"config.json names the architecture {name!r}; known are {known}")
    return str(name)


def read_decoder_config(folder: Path) -> DecoderConfig:
    """Parse config.json and generation_config.json.

    Raises:
        QuantizeError: a field is missing, contradicts another, or asks for what the fusion does not know.
    """
    raw = read_json(folder / "config.json")
    _refuse_unknown_structure(raw)
    hidden, heads = _count(raw, "hidden_size"), _count(raw, "num_attention_heads")
    layers = _count(raw, "num_hidden_layers")
    types = raw.get("layer_types")
    if types is not None and (len(types) != layers or not set(types) <= _LAYER_TYPES):
        raise QuantizeError(f"layer_types in config.json must name full or sliding attention for {layers} layers")
    window = raw.get("sliding_window") if raw.get("use_sliding_window", True) else None
    kv_heads = _count(raw, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise QuantizeError(f"config.json has {heads} attention heads, which {kv_heads} key heads do not divide")
    return DecoderConfig(
        architecture=architecture_of(folder),
        hidden_size=hidden,
        vocab_size=_count(raw, "vocab_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=_count(raw, "head_dim", hidden // heads),
        max_positions=_count(raw, "max_position_embeddings"),
        sliding_window=window if isinstance(window, int) else None,
        layer_types=None if types is None else tuple(types),
        bos_token_id=raw.get("bos_token_id") if isinstance(raw.get("bos_token_id"), int) else None,
        eos_token_ids=_eos_ids(folder, raw),
    )


def read_encoder_config(folder: Path) -> EncoderConfig:
    """Parse config.json.

    Raises:
        QuantizeError: a field is missing or asks for what the graph cannot do.
    """
    raw = read_json(folder / "config.json")
    if (activation := raw.get("hidden_act")) != "gelu":
        raise QuantizeError(f"hidden_act in config.json is {activation!r}; only 'gelu' is known")
    if (positions := raw.get("position_embedding_type", "absolute")) != "absolute":
        raise QuantizeError(f"position_embedding_type in config.json is {positions!r}; only 'absolute' is known")
    architecture = architecture_of(folder)
    first = _count(raw, "pad_token_id") + 1 if architecture in _OFFSET_POSITIONS else 0
    config = EncoderConfig(
        architecture=architecture,
        hidden_size=_count(raw, "hidden_size"),
        intermediate_size=_count(raw, "intermediate_size"),
        vocab_size=_count(raw, "vocab_size"),
        num_layers=_count(raw, "num_hidden_layers"),
        num_heads=_count(raw, "num_attention_heads"),
        max_positions=_count(raw, "max_position_embeddings") - first,
        layer_norm_eps=float(raw.get("layer_norm_eps", 1e-12)),
        first_position=first,
    )
    if config.hidden_size % config.num_heads:
        raise QuantizeError(f"hidden_size {config.hidden_size} is not divided by {config.num_heads} attention heads")
    return config


def check_weights(folder: Path) -> None:
    """Read the headers of all safetensors files and hold them against config.json.

    Raises:
        QuantizeError: no weights, a truncated file, or an embedding of another shape than the config says.
    """
    shapes: dict[str, list[int]] = {}
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise QuantizeError("the checkpoint holds no safetensors file; convert its weights first")
    for path in files:
        shapes |= _safetensors_shapes(path)
    raw = read_json(folder / "config.json")
    expected = [_count(raw, "vocab_size"), _count(raw, "hidden_size")]
    for name, shape in shapes.items():
        if name.endswith(("embed_tokens.weight", "word_embeddings.weight")) and shape != expected:
            raise QuantizeError(f"{name} has the shape {shape}, but config.json says {expected}")
    layers = _count(raw, "num_hidden_layers")
    indices = {int(part) for name in shapes for part in name.split(".") if part.isdigit() and ".layer" in name}
    if indices and max(indices) + 1 != layers:
        raise QuantizeError(f"the weights have {max(indices) + 1} layers, but config.json says {layers}")


def _safetensors_shapes(path: Path) -> dict[str, list[int]]:
    size = path.stat().st_size
    damaged = QuantizeError(f"{path.name} is truncated or damaged; copy the checkpoint again")
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise damaged
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            ends = [entry["data_offsets"][1] for entry in header.values()]
            shapes = {name: list(entry["shape"]) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
            raise damaged from err
    if size != 8 + length + max(ends, default=0):
        raise damaged
    return shapes


def _refuse_unknown_structure(raw: dict[str, Any]) -> None:
    for field in ("final_logit_softcapping", "attn_logit_softcapping", "num_local_experts", "num_experts"):
        if raw.get(field):
            raise QuantizeError(f"config.json sets {field} to {raw[field]!r}; such models are not known yet")
    scaling = raw.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default")) if isinstance(scaling, dict) else scaling
    if kind in {"dynamic", "longrope", "su"}:
        raise QuantizeError(
            f"config.json asks for {kind!r} RoPE, whose table changes with the prompt; it is not known yet"
        )


def _eos_ids(folder: Path, raw: dict[str, Any]) -> tuple[int, ...]:
    ids: set[int] = set()
    sources = [raw]
    if (folder / "generation_config.json").is_file():
        sources.append(read_json(folder / "generation_config.json"))
    for source in sources:
        value = source.get("eos_token_id")
        ids |= set(value) if isinstance(value, list) else {value} if isinstance(value, int) else set()
    return tuple(sorted(ids))


def _count(raw: dict[str, Any], field: str, default: int | None = None) -> int:
    value = raw.get(field)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise QuantizeError(f"{field} in config.json is {value!r}; a positive number is needed")
    return value
