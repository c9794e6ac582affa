"""Rotary positions: the old and the new spelling of a configuration, one canonical form, and its frequencies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.errors import QuantizeError
from quantize.sources.fields import Fields, shown

_PART = "partial_rotary_factor"
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
    "longrope": ("short_factor", "long_factor"),
    "proportional": (_PART,),
}
# Keys that may be absent, with the value that their absence means.
_OPTIONAL: Mapping[str, Mapping[str, object]] = {
    "yarn": {"beta_fast": 32, "beta_slow": 1, "truncate": True},
    "proportional": {"factor": 1.0},
}
_NAMES = {"su": "longrope"}  # as the first Phi-3 had it
QUERY_SCALE = "llama_4_scaling_beta"  # queries grow by it at each multiple of the trained length
_AXES = ("mrope_section", "mrope_interleaved")  # of images; a text has the same position on all of them
FULL, SLIDING = "full_attention", "sliding_attention"

Scaling = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rope:
    """The base, and `rope_scaling` in the old spelling or None; `partial` of each head turns."""

    theta: float
    scaling: Scaling | None = None
    partial: float | None = None
    local_theta: float | None = None

    @property
    def kind(self) -> str:
        """The kind of scaling."""
        return "default" if self.scaling is None else str(self.scaling["rope_type"])


def read_rope(fields: Fields, *, scaling_required: bool) -> Rope:
    """Return the rotary positions of a decoder's configuration.

    Raises:
        QuantizeError: missing, contradictory, or of a kind that is not known.
    """
    new = fields.value("rope_parameters")
    if new is None:
        theta = _theta(fields)
        if scaling_required and "rope_scaling" not in fields.names():
            raise fields.missing("rope_scaling", "which this family's configuration always has (null for none)")
        return Rope(theta, _scaling(fields.value("rope_scaling"), "rope_scaling", fields))
    if not isinstance(new, dict) or not new:
        raise QuantizeError(f"rope_parameters in {fields.where} is {shown(new)}; an object with rope_theta is needed")
    rope = _by_layer_type(new, fields) if {FULL, SLIDING} & set(new) else _from_new(new, "rope_parameters", fields)
    _check_same(fields, "rope_theta", rope.theta)
    if fields.has("rope_scaling"):
        old = _scaling(fields.value("rope_scaling"), "rope_scaling", fields)
        if old != rope.scaling:
            raise QuantizeError(f"rope_scaling and rope_parameters in {fields.where} differ; keep the right one")
    fields.value("rope_scaling")
    return rope


def _theta(fields: Fields) -> float:
    if not fields.has("rope_theta"):
        raise fields.missing("rope_theta", "the base of its rotary positions, nor rope_parameters, which hold it too")
    return fields.number("rope_theta", least=1.0)


def _check_same(fields: Fields, name: str, value: float) -> None:
    if fields.has(name) and fields.number(name) != value:
        raise QuantizeError(f"{name} and rope_parameters in {fields.where} differ; keep the right one")
    fields.value(name)


def _by_layer_type(new: Mapping[str, Any], fields: Fields) -> Rope:
    unknown = sorted(set(new) - {FULL, SLIDING})
    if unknown or FULL not in new:
        raise QuantizeError(f"rope_parameters in {fields.where} names {', '.join(unknown) or 'no full_attention'}")
    parts = {name: _from_new(value, f"rope_parameters.{name}", fields) for name, value in new.items() if value}
    full, sliding = parts[FULL], parts.get(SLIDING)
    if sliding is None:
        return full
    if sliding.scaling is not None or sliding.partial != full.partial:
        raise QuantizeError(
            f"rope_parameters.{SLIDING} in {fields.where} is {shown(new[SLIDING])}; only rope_theta is known"
        )
    return Rope(full.theta, full.scaling, full.partial, sliding.theta)


def _from_new(raw: object, name: str, fields: Fields) -> Rope:
    if not isinstance(raw, dict):
        raise QuantizeError(f"{name} in {fields.where} is {shown(raw)}; an object is needed")
    inner = Fields(raw, f"{name} of {fields.where}", fields.family)
    theta = _theta(inner)
    is_part_of_kind = raw.get("rope_type") == "proportional"
    partial = inner.number(_PART) if inner.has(_PART) and not is_part_of_kind else None
    known = ("rope_theta", *(() if is_part_of_kind else (_PART,)), *(_AXES if inner.family == "qwen3_5_text" else ()))
    rest = {key: value for key, value in raw.items() if key not in known}
    return Rope(theta, _scaling(rest, name, fields), partial)


def _scaling(raw: object, name: str, fields: Fields) -> Scaling | None:
    """Return the canonical rope_scaling: rope_type and the keys of that type."""
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise QuantizeError(f"{name} in {fields.where} is {shown(raw)}; an object or null is needed")
    inner = Fields(raw, f"{name} of {fields.where}", fields.family)
    kinds = {
        _NAMES.get(str(kind), str(kind)) for key in ("rope_type", "type") if (kind := inner.value(key)) is not None
    }
    if len(kinds) != 1:
        raise QuantizeError(f"{name} in {fields.where} is {shown(raw)}; it needs one rope_type")
    kind = kinds.pop()
    if kind not in _REQUIRED:
        known = ", ".join(_REQUIRED)
        raise QuantizeError(f"config.json asks for {kind!r} RoPE, which is not known yet; known are {known}")
    found: Scaling = {"rope_type": kind}
    for key in _REQUIRED[kind]:
        if key.endswith(("short_factor", "long_factor")):
            found[key] = _factors(inner, key)
        else:
            found[key] = inner.count(key) if key.startswith("original") else inner.number(key)
    for key, value in _OPTIONAL.get(kind, {}).items():
        inner.fixed(key, value)
    if kind == "longrope" and inner.has("attention_factor"):
        found["attention_factor"] = inner.number("attention_factor")
    if kind == "longrope" and inner.has("original_max_position_embeddings"):
        found["original_max_position_embeddings"] = inner.count("original_max_position_embeddings")
    if kind == "longrope":
        inner.value("factor")  # the quotient of the two lengths, which transformers computes itself
    if kind == "yarn":
        found |= _yarn_extras(inner)
    inner.left_out({})
    return None if kind == "default" else found


def _yarn_extras(inner: Fields) -> Scaling:
    """Return yarn's factor on cosine and sine where it is not the usual one, and Ministral's growing query scale."""
    found: Scaling = {}
    if inner.has("attention_factor"):
        found["attention_factor"] = inner.number("attention_factor")
    scales = [inner.number(key) if inner.has(key) else None for key in ("mscale", "mscale_all_dim")]
    if scales != [None, None]:
        if scales[0] != scales[1] or "attention_factor" in found:
            raise QuantizeError(
                f"mscale and mscale_all_dim in {inner.where} are {scales[0]} and {scales[1]}; only equal ones are "
                "known, without an attention_factor"
            )
        found["attention_factor"] = 1.0  # the quotient of two equal scales
    if inner.family == "ministral3":
        found[QUERY_SCALE] = inner.number(QUERY_SCALE)
        inner.value("max_position_embeddings")  # the configuration's own, once more
    return found


def _factors(fields: Fields, name: str) -> list[float]:
    values = fields.value(name)
    if not isinstance(values, list) or not values or not all(_is_positive(value) for value in values):
        raise QuantizeError(f"{name} in {fields.where} is {shown(values)}; a list of positive numbers is needed")
    return [float(value) for value in values]


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def check_factors(rope: Rope, rotary_dim: int) -> None:
    """Refuse lists of factors that do not fit the part of each head that turns.

    Raises:
        QuantizeError: another count.
    """
    for name in ("short_factor", "long_factor"):
        values: Sequence[float] = (rope.scaling or {}).get(name, ())
        if rope.kind == "longrope" and len(values) != rotary_dim // 2:
            raise QuantizeError(
                f"{name} in config.json has {len(values)} numbers, but {rotary_dim} channels of each head turn"
            )


def plain_frequencies(theta: float, rotary_dim: int) -> NDArray[np.float32]:
    """Return the inverse frequencies of unscaled rotary positions."""
    steps = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    return np.asarray(1.0 / (theta**steps), np.float32)
