"""The layers of ModernBERT's configuration: which of them see the whole text, and the bases of their positions."""

from __future__ import annotations

from appliance.errors import QuantizeError
from quantize.sources.fields import Fields, shown
from quantize.sources.rope import FULL, SLIDING


def bases(fields: Fields) -> tuple[float, float]:
    """Return the bases of the layers that see all and of those with a window, in the old or the new spelling.

    Raises:
        QuantizeError: missing, contradictory, or another kind of positions.
    """
    new = fields.value("rope_parameters")
    if new is None:
        theta = fields.number("global_rope_theta")
        if "local_rope_theta" not in fields.names():
            raise fields.missing("local_rope_theta", "the base of the positions in layers with a window")
        local = fields.number("local_rope_theta") if fields.has("local_rope_theta") else theta
        return theta, local
    found = []
    for kind, old in ((FULL, "global_rope_theta"), (SLIDING, "local_rope_theta")):
        part = new.get(kind) if isinstance(new, dict) and set(new) <= {FULL, SLIDING} else None
        if not isinstance(part, dict):
            raise QuantizeError(f"rope_parameters in config.json is {shown(new)}; {FULL} and {SLIDING} are needed")
        inner = Fields(part, f"rope_parameters.{kind} of config.json", fields.family)
        inner.fixed("rope_type", "default")
        found.append(inner.number("rope_theta"))
        inner.left_out({})
        if fields.has(old) and fields.number(old) != found[-1]:
            raise QuantizeError(f"{old} and rope_parameters in config.json differ; keep the right one")
    return found[0], found[1]


def global_every(fields: Fields) -> int:
    """Return the distance of the layers that see the whole text.

    Raises:
        QuantizeError: missing, contradictory, or the layers do not follow each other at one distance.
    """
    types = fields.value("layer_types")
    if types is None:
        return fields.count("global_attn_every_n_layers")
    layers = fields.count("num_hidden_layers")
    for every in range(1, layers + 1):
        if types == [SLIDING if layer % every else FULL for layer in range(layers)]:
            if (
                fields.has("global_attn_every_n_layers")
                and fields.count("global_attn_every_n_layers") < layers != every
            ):
                _check_every(fields, every)
            return every
    raise QuantizeError(
        f"layer_types in config.json is {shown(types)}; every n-th of {layers} layers sees the whole text"
    )


def _check_every(fields: Fields, every: int) -> None:
    if (stated := fields.count("global_attn_every_n_layers")) != every:
        raise QuantizeError(f"global_attn_every_n_layers in config.json is {stated}, but layer_types says {every}")
