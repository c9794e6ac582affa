"""The layers of Gemma with full attention, whose heads are wider: where they are, and how a configuration says it."""

from __future__ import annotations

from appliance.errors import QuantizeError
from quantize.sources.fields import Fields, shown
from quantize.sources.rope import FULL, SLIDING

_BY_LAYER = "per_layer_config"  # of transformers 5.24


def gemma_layer_types(fields: Fields) -> list[str]:
    """Return the kind of attention of each layer.

    Raises:
        QuantizeError: missing, one kind alone, or the last layer has a window.
    """
    layers, types = fields.count("num_hidden_layers"), fields.value("layer_types")
    if types is None:
        raise fields.missing("layer_types", "which says where the layers without a window are")
    if not isinstance(types, list) or len(types) != layers or not all(kind in (FULL, SLIDING) for kind in types):
        raise QuantizeError(f"layer_types in {fields.where} must name full or sliding attention for {layers} layers")
    if types[-1] != FULL:
        raise QuantizeError(f"layer_types in {fields.where} ends with {types[-1]}; the last layer needs {FULL}")
    if SLIDING not in types:
        raise QuantizeError(f"layer_types in {fields.where} has no {SLIDING}, which is not known")
    return list(types)


def wide_size(fields: Fields, types: list[str], name: str, known: tuple[str, ...], wide_name: str) -> int | None:
    """Return the size `name` of all layers with full attention, where the configuration names it; else None.

    transformers 5.24 writes it layer by layer, with those of `known` that differ from the other layers; other files
    have it as `wide_name`.

    Raises:
        QuantizeError: the layers differ, or the two spellings do.
    """
    by_layer = fields.value(_BY_LAYER)
    stated = None if fields.value(wide_name) is None else fields.count(wide_name)
    if by_layer is None:
        return stated
    wanted = [layer for layer, kind in enumerate(types) if kind == FULL]
    changes = list(by_layer.values()) if isinstance(by_layer, dict) and _layers(by_layer) == wanted else []
    change = changes[0] if changes and all(other == changes[0] for other in changes) else None
    if not isinstance(change, dict) or not change or not set(change) <= set(known):
        raise QuantizeError(
            f"{_BY_LAYER} in {fields.where} is {shown(by_layer)}; one {' and '.join(known)} for all layers with "
            f"{FULL} is known"
        )
    found = Fields(change, f"{_BY_LAYER} in {fields.where}", fields.family).count(name) if name in change else None
    if stated is not None and found != stated:
        raise QuantizeError(f"{wide_name} and {_BY_LAYER} in {fields.where} differ; keep the right one")
    return found


def _layers(by_layer: dict[str, object]) -> list[int]:
    """Return the layers that are named, in order; transformers pads their numbers with zeros."""
    return sorted(int(name) for name in by_layer) if all(map(str.isdecimal, by_layer)) else []
