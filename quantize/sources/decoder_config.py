"""The part of a causal model's config.json that its graph depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantize.sources.checkpoint import architecture_of
from quantize.sources.decoder_design import DecoderDesign, decoder_design
from quantize.sources.decoder_keys import read_decoder_keys
from quantize.sources.embedding_gemma2 import FAMILY as EMBEDDING_GEMMA2
from quantize.sources.embedding_gemma2 import MOST_TOKENS
from quantize.sources.fields import Fields, read_json
from quantize.sources.generation import read_generation
from quantize.sources.modules import pools_hidden_states
from quantize.sources.rope import QUERY_SCALE, SLIDING

_LONGROPE = "it needs the long factors of longrope, and one graph holds one set"
_LIMITS = {
    "ministral3": "its queries are scaled by their position, which the engine does not compute",
    EMBEDDING_GEMMA2: "its publisher gives it no longer texts",
}


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The part of a causal model's config.json that the graph depends on.

    Attributes:
        max_positions: the tokens for which one table of positions holds.
        published_positions: those that the configuration names.
        is_bidirectional: each token sees those behind it too, as in some models whose hidden states become a vector.
    """

    architecture: str
    hidden_size: int
    vocab_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    published_positions: int
    sliding_window: int | None
    layer_types: tuple[str, ...] | None
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    design: DecoderDesign
    is_bidirectional: bool = False

    @property
    def output_size(self) -> int:
        """Return the numbers that the model without its head gives for each token."""
        return self.design.projected_width or self.hidden_size

    @property
    def limit(self) -> str | None:
        """Return the reason why fewer positions are built than the checkpoint names; None if all are."""
        if self.max_positions == self.published_positions:
            return None
        reason = _LIMITS.get(self.architecture, _LONGROPE)
        return f"{self.max_positions:,} of {self.published_positions:,} positions: beyond them {reason}"

    def window_of(self, layer: int) -> int | None:
        """Return the tokens that this layer looks back, or None if it sees them all."""
        if self.layer_types is not None and self.layer_types[layer] != SLIDING:
            return None
        return self.sliding_window

    def reach_of(self, layer: int) -> int | None:
        """Return the distance of the farthest token that this layer sees, or None if it sees them all."""
        window = self.window_of(layer)
        if window is None or self.architecture == EMBEDDING_GEMMA2:
            return window
        # Of another bidirectional model the window is cut in half, to either side (transformers' Gemma3TextConfig).
        return window // 2 if self.is_bidirectional else window - 1


def read_decoder_config(folder: Path) -> DecoderConfig:
    """Parse config.json and generation_config.json.

    Raises:
        QuantizeError: a key is missing, not known, contradicts another, or asks for what the fusion does not know.
    """
    architecture_of(folder)
    keys = read_decoder_keys(read_json(folder / "config.json"), is_body=pools_hidden_states(folder)).config
    path = folder / "generation_config.json"
    return decoder_config(keys, read_json(path) if path.is_file() else {})


def decoder_config(keys: Mapping[str, Any], generation: Mapping[str, Any]) -> DecoderConfig:
    """Return what the graph depends on, out of a canonical configuration and generation_config.json."""
    vocab_size: int = keys["vocab_size"]
    found = read_generation(Fields(generation, "generation_config.json", str(keys["model_type"])), vocab_size)
    types = keys.get("layer_types")
    return DecoderConfig(
        architecture=keys["model_type"],
        hidden_size=keys["hidden_size"],
        vocab_size=vocab_size,
        num_layers=keys["num_hidden_layers"],
        num_heads=keys["num_attention_heads"],
        num_kv_heads=keys["num_key_value_heads"],
        head_dim=keys["head_dim"],
        max_positions=_max_positions(keys),
        published_positions=keys["max_position_embeddings"],
        sliding_window=keys.get("sliding_window"),
        layer_types=None if types is None else tuple(types),
        bos_token_id=found.bos_token_id if keys["bos_token_id"] is None else keys["bos_token_id"],
        eos_token_ids=tuple(sorted({*(keys["eos_token_id"] or ()), *found.eos_token_ids})),
        design=decoder_design(keys),
        is_bidirectional=bool(keys.get("use_bidirectional_attention")) or keys["model_type"] == EMBEDDING_GEMMA2,
    )


def _max_positions(keys: Mapping[str, Any]) -> int:
    """Return the positions for which one table of frequencies holds."""
    length: int = keys["max_position_embeddings"]
    if keys["model_type"] == EMBEDDING_GEMMA2:
        return min(length, MOST_TOKENS)
    scaling = keys.get("rope_scaling") or {}
    if scaling.get("rope_type") == "longrope" and scaling["short_factor"] != scaling["long_factor"]:
        return min(length, int(keys["original_max_position_embeddings"]))
    if QUERY_SCALE in scaling:
        return min(length, int(scaling["original_max_position_embeddings"]))
    return length
