"""Loads: pieces of work for a server, and the metrics that one run of each gives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from appliance.bench.figures import Metric
from appliance.bench.probe import Target

Values = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """`run` does the work once and returns one value for each metric, None where this run tells nothing.

    Its second argument differs from run to run and is the seed of every prompt; all servers get the same prompts.
    """

    metrics: tuple[Metric, ...]
    run: Callable[[Target, int], Awaitable[Values]]

    @property
    def group(self) -> str:
        """The group of its metrics; one load has one."""
        return self.metrics[0].group
