"""Runs loads on one server or on two in turn, so that whatever else the machine does falls on both alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from appliance.bench.errors import RefusalError
from appliance.bench.figures import Figure
from appliance.bench.loads import Load
from appliance.bench.probe import Target


async def measure(
    loads: Sequence[Load],
    targets: Sequence[Target],
    *,
    repeat: int,
    seed: int = 0,
    on_progress: Callable[[str], None] = lambda _: None,
) -> list[list[Figure]]:
    """Measure one list of figures a target, in the same order: ours, theirs, ours, theirs, and so on within each load.

    Raises:
        BenchError: a connection is lost.
    """
    figures: list[list[Figure]] = [[] for _ in targets]
    for load in loads:
        samples: list[list[tuple[float | None, ...]]] = [[] for _ in targets]
        refusals: dict[int, str] = {}
        for i in range(repeat):
            for t, target in enumerate(targets):
                if t in refusals:
                    continue
                on_progress(f"{load.metrics[0].name}: run {i + 1} of {repeat}, {target.label}")
                try:
                    samples[t].append(await load.run(target, seed + i))
                except RefusalError as err:
                    refusals[t] = f"not supported ({err.answer_status}: {err.message})"
        for t in range(len(targets)):
            figures[t] += _figures(load, samples[t], refusals.get(t, ""))
    return figures


def _figures(load: Load, runs: Sequence[tuple[float | None, ...]], refusal: str) -> list[Figure]:
    if refusal:
        return [Figure(metric, note=refusal) for metric in load.metrics]
    found = []
    for metric, values in zip(load.metrics, zip(*runs, strict=True), strict=True):
        kept = tuple(v for v in values if v is not None)
        found.append(Figure(metric, kept, "" if kept else "the answers were too short to tell"))
    return found
