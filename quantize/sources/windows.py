"""Sliding windows of a causal model's configuration: which layers look back a limited number of tokens."""

from __future__ import annotations

from typing import Any

from appliance.errors import QuantizeError
from quantize.sources.fields import Fields, shown
from quantize.sources.rope import FULL, SLIDING

_OTHER_LAYERS = frozenset(
    {"granitemoehybrid", "lfm2", "lfm2_moe", "qwen3_5_text", "nemotron_h"}
)  # layer_types names kinds of layers, not windows
_HAS_WINDOW_SWITCH = frozenset({"qwen2", "qwen3", "smollm3"})


def window_keys(fields: Fields, layers: int, family: str) -> dict[str, Any]:
    """Return the canonical keys of sliding windows.

    Raises:
        QuantizeError: missing, contradictory, or not known for this family.
    """
    if family in _OTHER_LAYERS:
        fields.absent("sliding_window")
        return {}
    window = fields.value("sliding_window")
    if window is not None:
        fields.count("sliding_window")
    if family in _HAS_WINDOW_SWITCH:
        types = _layer_types(fields, layers)
        if window is not None and types is None and not fields.has("use_sliding_window"):
            raise fields.missing("use_sliding_window", "although sliding_window is set")
        is_used = fields.flag("use_sliding_window", bool(types and SLIDING in types))
        if is_used and types is None:
            raise fields.missing("layer_types", "although use_sliding_window is true")
        if is_used is not bool(types and SLIDING in types) or (is_used and window is None):
            raise QuantizeError(
                f"layer_types, sliding_window and use_sliding_window in {fields.where} contradict each other"
            )
        return {
            "use_sliding_window": is_used,
            "sliding_window": window if is_used else None,
            "layer_types": types or [FULL] * layers,
        }
    fields.fixed("use_sliding_window", family == "gemma3_text")
    if family == "gemma3_text":
        types = _layer_types(fields, layers) or _pattern(fields, layers)
        return {"sliding_window": fields.count("sliding_window"), "layer_types": types}
    types = _layer_types(fields, layers)
    if family in ("mistral", "ministral3", "phi3"):
        if family == "mistral" and "sliding_window" not in fields.names():
            raise fields.missing("sliding_window", "the tokens that each layer looks back (null for all)")
        if types is not None and set(types) != {SLIDING if window else FULL}:
            raise QuantizeError(f"layer_types in {fields.where} is {shown(types)}; it contradicts sliding_window")
        return {"sliding_window": window}
    if window is not None or (types is not None and SLIDING in types):
        name = "sliding_window" if window is not None else "layer_types"
        raise QuantizeError(f"{name} in {fields.where} asks for a window, which is not known for {family}")
    return {}


def _layer_types(fields: Fields, layers: int) -> list[str] | None:
    types = fields.value("layer_types")
    if types is None:
        return None
    if not isinstance(types, list) or len(types) != layers or not all(kind in (FULL, SLIDING) for kind in types):
        raise QuantizeError(f"layer_types in {fields.where} must name full or sliding attention for {layers} layers")
    return list(types)


def _pattern(fields: Fields, layers: int) -> list[str]:
    if not fields.has("sliding_window_pattern"):
        raise fields.missing("layer_types", "which says where the layers without a window are")
    step = fields.count("sliding_window_pattern")
    return [FULL if (layer + 1) % step == 0 else SLIDING for layer in range(layers)]
