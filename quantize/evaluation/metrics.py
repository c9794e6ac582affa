"""The figures of an evaluation: kept in the stage's folder, and held against a recipe's gates."""

from __future__ import annotations

import json
from pathlib import Path

from appliance.bundle.targets import ANY, Target, target_metrics
from appliance.errors import QuantizeError
from quantize.recipe import GatesPart

Metrics = dict[str, float]

_NAME = "metrics.json"
_SIGNIFICANT_DIGITS = 4


def save_metrics(folder: Path, metrics: Metrics) -> None:
    """Write the figures, rounded to the digits that they are worth."""
    rounded = {name: float(f"{value:.{_SIGNIFICANT_DIGITS}g}") for name, value in metrics.items()}
    (folder / _NAME).write_text(json.dumps(rounded, sort_keys=True))


def load_metrics(folder: Path) -> Metrics:
    """Read the figures that `save_metrics` wrote."""
    metrics: Metrics = json.loads((folder / _NAME).read_text())
    return metrics


def check_gates(gates: GatesPart, metrics: Metrics, *, target: Target = ANY, overrule: bool) -> bool:
    """Hold the figures against the gates, and tell if a missed gate was overruled.

    A decoder's figures count under each arithmetic of the boards that the bundle is for, so that the worst decides.

    Raises:
        QuantizeError: a gate is missed and not overruled.
    """
    failed = failed_gates(gates, metrics, target)
    if failed and not overrule:
        raise QuantizeError(f"the bundle fails its gates: {'; '.join(failed)}; --force builds it anyway")
    return bool(failed)


def failed_gates(gates: GatesPart, metrics: Metrics, target: Target = ANY) -> list[str]:
    """Return a clause for each gate that the metrics miss."""
    limits = {
        "kl_mean": (None, gates.max_kl),
        "top1_agreement": (gates.min_top1, None),
        "cosine_mean": (gates.min_cosine_mean, None),
        "cosine_min": (gates.min_cosine, None),
        "order_agreement": (gates.min_order, None),
    }
    clauses = []
    for gated, (least, most) in limits.items():
        for name, value in target_metrics(metrics, gated, target).items():
            if most is not None and not value <= most:
                clauses.append(f"{name} is {value}, at most {most} is allowed")
            if least is not None and not value >= least:
                clauses.append(f"{name} is {value}, at least {least} is needed")
    return clauses
