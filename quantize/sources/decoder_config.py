"""The part of a causal model's config.json that its graph depends on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import QuantizeError
from quantize.sources.checkpoint import architecture_of, count_in, read_json

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


def read_decoder_config(folder: Path) -> DecoderConfig:
    """Parse config.json and generation_config.json.

    Raises:
        QuantizeError: a field is missing, contradicts another, or asks for what the fusion does not know.
    """
    raw = read_json(folder / "config.json")
    _refuse_unknown_structure(raw)
    hidden, heads = count_in(raw, "hidden_size"), count_in(raw, "num_attention_heads")
    layers = count_in(raw, "num_hidden_layers")
    types = raw.get("layer_types")
    if types is not None and (len(types) != layers or not set(types) <= _LAYER_TYPES):
        raise QuantizeError(f"layer_types in config.json must name full or sliding attention for {layers} layers")
    window = raw.get("sliding_window") if raw.get("use_sliding_window", True) else None
    kv_heads = count_in(raw, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise QuantizeError(f"config.json has {heads} attention heads, which {kv_heads} key heads do not divide")
    return DecoderConfig(
        architecture=architecture_of(folder),
        hidden_size=hidden,
        vocab_size=count_in(raw, "vocab_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=count_in(raw, "head_dim", hidden // heads),
        max_positions=count_in(raw, "max_position_embeddings"),
        sliding_window=window if isinstance(window, int) else None,
        layer_types=None if types is None else tuple(types),
        bos_token_id=raw.get("bos_token_id") if isinstance(raw.get("bos_token_id"), int) else None,
        eos_token_ids=_eos_ids(folder, raw),
    )


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
