"""Everything that one run of the bench found, and its form for machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from appliance.bench.figures import Figure, advantage
from appliance.bench.machine import Machine
from appliance.models import EngineSettings


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model's id, and for an installed bundle its size and how its weights are quantized."""

    name: str
    size_bytes: int | None = None
    scheme: str | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of figures: an installed model in process, or a server with the models that answered."""

    label: str
    place: str
    models: tuple[ModelSummary, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """`engine` is None where a running server was measured, whose settings are not known here."""

    machine: Machine
    load_before: float
    load_after: float
    repeat: int
    engine: EngineSettings | None
    subjects: tuple[Subject, ...]
    figures: tuple[Figure, ...]
    peer_figures: tuple[Figure, ...] | None = None

    def pairs(self) -> list[tuple[Figure, Figure | None]]:
        """Pair each of our figures with the peer's figure of the same metric."""
        theirs = {figure.metric: figure for figure in self.peer_figures or ()}
        return [(figure, theirs.get(figure.metric)) for figure in self.figures]

    def to_json(self) -> dict[str, Any]:
        """Stable names; a ratio above 1 says that ours is better, whichever way the metric counts."""
        return {
            "machine": asdict(self.machine),
            "load_average": {"before": self.load_before, "after": self.load_after},
            "repeat": self.repeat,
            "engine": asdict(self.engine) if self.engine else None,
            "subjects": [asdict(subject) for subject in self.subjects],
            "figures": [_row(ours, theirs, self.peer_figures is not None) for ours, theirs in self.pairs()],
        }


def _row(ours: Figure, theirs: Figure | None, has_peer: bool) -> dict[str, Any]:
    metric = ours.metric
    row: dict[str, Any] = {
        "group": metric.group,
        "name": metric.name,
        "unit": metric.unit,
        "lower_is_better": metric.lower_is_better,
        **_samples(ours),
    }
    if has_peer:
        row["theirs"] = _samples(theirs) if theirs else None
        row["ratio"] = _rounded(advantage(ours, theirs)) if theirs else None
    return row


def _samples(figure: Figure) -> dict[str, Any]:
    samples = [_rounded(sample) for sample in figure.samples]
    return {"median": _rounded(figure.median), "samples": samples, "note": figure.note or None}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
