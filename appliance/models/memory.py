"""What a model needs in memory, told before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from appliance.bundle import Bundle, DecoderSpec
from appliance.bundle.manifest import KV_SCALES_NAME, MODEL_NAME
from appliance.engine.attention import ATTENTION_BYTES
from appliance.engine.kv_cache import CacheType
from appliance.engine.prompt_graph import int8_product_bytes
from appliance.engine.provider import accelerators
from appliance.models.loaded import EngineSettings

MARGIN_BYTES = 64 << 20  # stays free for requests, connections and the rest of the system
_DEVICE_BYTES = 512 << 20  # a GPU's context and libraries, where the board shares its memory with one; not measured
_SCRATCH_BYTES = (48 << 20) + ATTENTION_BYTES  # a chunk's activations, vocabulary tables, onnxruntime's own


@dataclass(frozen=True, slots=True)
class Need:
    """What a model takes when its keys and values are of this type; None for a model that has none.

    `fast_prompts`: with the second set of weights that a graph for prompts has, where one is faster.
    """

    cache_type: CacheType | None
    num_bytes: int
    fast_prompts: bool = False

    def settings(self, settings: EngineSettings) -> EngineSettings:
        """The same settings with what was chosen here."""
        if self.cache_type is None:
            return settings
        return replace(settings, kv_cache=self.cache_type, fast_prompts=self.fast_prompts)


def needs_of(bundle: Bundle, settings: EngineSettings) -> tuple[Need, ...]:
    """The ways in which a model can be loaded, the best answers first: each later one takes less memory."""
    weights = bundle.manifest.loaded_bytes
    spec = bundle.manifest.model
    if not isinstance(spec, DecoderSpec):
        return (Need(None, weights + _SCRATCH_BYTES),)
    computing = _SCRATCH_BYTES + (_DEVICE_BYTES if settings.use_device and accelerators() else 0)
    needs = tuple(
        Need(cache_type, weights + kv_cache_bytes(spec, settings, cache_type) + computing)
        for cache_type in _cache_types(bundle, spec, settings)
    )
    if settings.fast_prompts:
        of_prompts = int8_product_bytes(bundle.path(MODEL_NAME).read_bytes())
        first = Need(needs[0].cache_type, needs[0].num_bytes + of_prompts, fast_prompts=True)
        needs = (first, *needs) if of_prompts else needs
    assert all(a.num_bytes > b.num_bytes for a, b in pairwise(needs))
    return needs


def needed_bytes(bundle: Bundle, settings: EngineSettings) -> int:
    """The least that a model can do with: weights, keys and values of every slot, and what computing takes."""
    return needs_of(bundle, settings)[-1].num_bytes


def kv_cache_bytes(spec: DecoderSpec, settings: EngineSettings, cache_type: CacheType) -> int:
    """Keys and values of every slot when all of them are full."""
    capacity = min(settings.context_length, spec.context_length)
    of_a_token = 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * np.dtype(cache_type).itemsize
    return settings.num_slots * capacity * of_a_token


def _cache_types(bundle: Bundle, spec: DecoderSpec, settings: EngineSettings) -> tuple[CacheType, ...]:
    """int8 where the bundle was made for it; what the settings ask for where that can be had."""
    if spec.kv_cache_dtype == "int8":
        return ("int8",)
    if not bundle.has(KV_SCALES_NAME) or settings.kv_cache == "float32":
        return ("float32",)
    return ("int8",) if settings.kv_cache == "int8" else ("float32", "int8")
