"""The rotary positions of each layer as numbers: inverse frequencies and the factor on cosine and sine.

Computed in float32 as transformers computes them, but for the power of the base, which is rounded from float64: the
bits are the same on every processor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.sources.rope import SLIDING

_YARN_FAST, _YARN_SLOW = 32, 1  # rotations within the trained length; the reader accepts no others
_YARN_MSCALE = 0.1
_LEAST_RAMP = 0.001  # keeps the ramp's width above zero

Frequencies = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rotation:
    """Positions of one layer: a pair of channels turns by position * frequency; each frequency is a float32."""

    frequencies: tuple[float, ...]
    scale: float = 1.0

    def array(self) -> Frequencies:
        """Return the inverse frequencies."""
        return np.array(self.frequencies, np.float32)


def rotations(keys: Mapping[str, Any]) -> tuple[Rotation | None, ...]:
    """Return each layer's rotation, out of a canonical configuration; None in a layer without positions."""
    count = keys["num_hidden_layers"]
    turning = keys.get("no_rope_layers") or [1] * count
    dim = int(keys["head_dim"] * keys.get("partial_rotary_factor", 1.0))
    wide = keys.get("global_head_dim", dim)  # of the layers without a window
    full = None if keys.get("position_embedding_type") == "nope" else _scaled(keys, wide)
    sliding = full
    if "rope_local_base_freq" in keys:
        sliding = _rotation(np.float32(1) / _powers(keys["rope_local_base_freq"], dim))
    types = keys.get("layer_types") if "rope_local_base_freq" in keys else None
    return tuple(
        (sliding if types is not None and types[layer] == SLIDING else full) if turning[layer] else None
        for layer in range(count)
    )


def _rotation(frequencies: Frequencies, scale: float = 1.0) -> Rotation:
    return Rotation(tuple(np.asarray(frequencies, np.float32).tolist()), float(np.float32(scale)))


def _powers(theta: float, dim: int) -> Frequencies:
    steps = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return np.asarray(float(theta) ** steps.astype(np.float64), np.float32)


def _scaled(keys: Mapping[str, Any], dim: int) -> Rotation:
    powers, scaling = _powers(keys["rope_theta"], dim), keys.get("rope_scaling") or {}
    plain = np.float32(1) / powers
    match scaling.get("rope_type"):
        case "linear":
            return _rotation(plain / np.float32(scaling["factor"]))
        case "llama3":
            return _rotation(_llama3(plain, scaling))
        case "yarn":
            usual = _YARN_MSCALE * math.log(scaling["factor"]) + 1.0 if scaling["factor"] > 1 else 1.0
            scale = scaling.get("attention_factor", usual)
            return _rotation(_yarn(powers, scaling, keys["rope_theta"]), scale)
        case "proportional":  # the channels that do not turn have a frequency of zero
            turning = int(scaling["partial_rotary_factor"] * dim // 2)
            return _rotation(np.where(np.arange(len(plain)) < turning, plain, np.float32(0)))
        case "longrope":
            short = np.array(scaling["short_factor"], np.float32)
            return _rotation(np.float32(1) / (short * powers), _longrope_scale(keys, scaling))
    return _rotation(plain)


def _llama3(plain: Frequencies, scaling: Mapping[str, Any]) -> Frequencies:
    low, high, length = (
        np.float32(scaling[key]) for key in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    factor, lengths = np.float32(scaling["factor"]), np.float32(2 * math.pi) / plain
    is_long, is_short = lengths > length / low, lengths < length / high
    scaled = np.where(is_long, plain / factor, plain)
    share = (length / lengths - low) / (high - low)
    between = (np.float32(1) - share) * scaled / factor + share * scaled
    return np.asarray(np.where(~is_long & ~is_short, between, scaled), np.float32)


def _yarn(powers: Frequencies, scaling: Mapping[str, Any], theta: float) -> Frequencies:
    dim, trained = 2 * len(powers), scaling["original_max_position_embeddings"]

    def channel(rotations: float) -> float:
        return (dim * math.log(trained / (rotations * 2 * math.pi))) / (2 * math.log(theta))

    first, last = max(math.floor(channel(_YARN_FAST)), 0), min(math.ceil(channel(_YARN_SLOW)), dim - 1)
    width = last - first if last != first else _LEAST_RAMP
    ramp = np.clip((np.arange(len(powers), dtype=np.float32) - np.float32(first)) / np.float32(width), 0, 1)
    kept = np.float32(1) - np.asarray(ramp, np.float32)
    plain, slowed = np.float32(1) / powers, np.float32(1) / (np.float32(scaling["factor"]) * powers)
    return np.asarray(slowed * (np.float32(1) - kept) + plain * kept, np.float32)


def _longrope_scale(keys: Mapping[str, Any], scaling: Mapping[str, Any]) -> float:
    if "attention_factor" in scaling:
        return float(scaling["attention_factor"])
    trained = keys["original_max_position_embeddings"]
    factor = keys["max_position_embeddings"] / trained
    return math.sqrt(1 + math.log(factor) / math.log(trained)) if factor > 1 else 1.0
