"""The boards that a bundle can be built for, and the arithmetic with which their processors multiply its weights.

The same weights give other logits on another processor, since its kernels round activations in another way:

*blocks*: to int8 with a scale for each block of weights. onnxruntime on x86, its 8-bit products on Arm with dot
products, and Lantern's own kernels everywhere.

*rows*: 4-bit symmetric weights, their scales cut to bfloat16, meet activations with one scale and zero point for each
row (KleidiAI: onnxruntime on Arm with dot products); all other products as in *blocks*.

*floats*: no rounding. onnxruntime on Arm without dot products.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

from appliance.host.processor import ProcessorKind

Target = Literal["any", "pi4", "pi5", "orin", "x86"]
Arithmetic = Literal["blocks", "rows", "floats"]

ARITHMETICS: Final[tuple[Arithmetic, ...]] = get_args(Arithmetic)
ANY: Final = "any"

_PROCESSORS: Mapping[str, tuple[ProcessorKind, ...]] = {
    "pi4": ("neon",),
    "pi5": ("dotprod", "i8mm"),
    "orin": ("dotprod", "i8mm"),
    "x86": ("x86",),
}
_COMPUTED: Mapping[ProcessorKind, tuple[Arithmetic, ...]] = {
    "x86": ("blocks",),
    "neon": ("floats", "blocks"),
    "dotprod": ("rows", "blocks"),
    "i8mm": ("rows", "blocks"),
}


def processors_of(target: str) -> tuple[ProcessorKind, ...]:
    """Return the kinds of processors that a target has; all that are known for "any" and for one of a later version."""
    return _PROCESSORS.get(target, tuple(_COMPUTED))


def arithmetics_of(target: str) -> tuple[Arithmetic, ...]:
    """Return the arithmetics that a target's boards compute with, by stock operators or by Lantern's kernels."""
    found = {name for kind in processors_of(target) for name in _COMPUTED[kind]}
    return tuple(name for name in ARITHMETICS if name in found)


def hardest_of(target: str) -> Arithmetic:
    """Return the arithmetic of a target that rounds most; a search measures with this one."""
    found = arithmetics_of(target)
    return next(name for name in ("rows", "blocks", "floats") if name in found)


def stock_arithmetic(kind: ProcessorKind) -> Arithmetic | None:
    """Return the arithmetic of onnxruntime's own operators; None for a processor that is not known."""
    return next(iter(_COMPUTED.get(kind, ())), None)


def is_built_for(target: str, kind: ProcessorKind) -> bool:
    """Return True if a bundle for this target is built for this processor; one of no known kind takes any bundle."""
    return kind == "other" or kind in processors_of(target)


def metric_name(name: str, arithmetic: Arithmetic) -> str:
    """Return the name of a decoder's metric under an arithmetic: "kl_mean_rows"."""
    return f"{name}_{arithmetic}"


def target_metrics(metrics: Mapping[str, float], name: str, target: str) -> dict[str, float]:
    """Return a metric under each arithmetic of a target; the plain one where none was measured, as until 0.1.0."""
    wanted = [metric_name(name, arithmetic) for arithmetic in arithmetics_of(target)]
    found = {key: metrics[key] for key in wanted if key in metrics}
    return found or {key: metrics[key] for key in (name,) if key in metrics}


def kl_here(metrics: Mapping[str, float], kind: ProcessorKind) -> float | None:
    """Return the KL divergence that a processor's arithmetic gives at most; None if it was not measured."""
    names = (metric_name("kl_mean", arithmetic) for arithmetic in _COMPUTED.get(kind, ()))
    return max((metrics[name] for name in names if name in metrics), default=metrics.get("kl_mean"))
