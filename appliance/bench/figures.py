"""Samples and what they come to: medians, percentiles, ratios. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table: what is measured, in which unit, and which way is better."""

    group: str
    name: str
    unit: str
    lower_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric's samples, in the order of measuring; none where `note` says why."""

    metric: Metric
    samples: tuple[float, ...] = ()
    note: str = ""

    @property
    def median(self) -> float | None:
        """The value that the table shows."""
        return statistics.median(self.samples) if self.samples else None


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that is at least as large as `percent` of all values (nearest rank)."""
    ordered = sorted(values)
    rank = math.ceil(percent / 100 * len(ordered))
    return ordered[max(rank, 1) - 1]


def advantage(ours: Figure, theirs: Figure) -> float | None:
    """Return our advantage as a factor, whichever way the metric counts; above 1, ours is better."""
    a, b = ours.median, theirs.median
    if not a or not b:
        return None
    return b / a if ours.metric.lower_is_better else a / b
