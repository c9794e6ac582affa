"""What a model needs in memory, told before it is loaded."""

from __future__ import annotations

import numpy as np

from appliance.bundle import Bundle, DecoderSpec
from appliance.bundle.manifest import MODEL_DATA_NAME, MODEL_NAME
from appliance.models.loaded import EngineSettings

MARGIN_BYTES = 64 << 20  # stays free for requests, connections and the rest of the system
_SCRATCH_BYTES = 48 << 20  # a chunk's activations, vocabulary tables, onnxruntime's own


def needed_bytes(bundle: Bundle, settings: EngineSettings) -> int:
    """Weights, keys and values of every slot, and what computing takes beside them."""
    weights = sum(f.size_bytes for f in bundle.manifest.files if f.name in {MODEL_NAME, MODEL_DATA_NAME})
    spec = bundle.manifest.model
    cache = kv_cache_bytes(spec, settings) if isinstance(spec, DecoderSpec) else 0
    return weights + cache + _SCRATCH_BYTES


def kv_cache_bytes(spec: DecoderSpec, settings: EngineSettings) -> int:
    """Keys and values of every slot when all of them are full."""
    capacity = min(settings.context_length, spec.context_length)
    of_a_token = 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * np.dtype(spec.kv_cache_dtype).itemsize
    return settings.num_slots * capacity * of_a_token
