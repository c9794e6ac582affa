"""The distribution of a figure over many positions: counts on a logarithmic axis, and quantiles."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NAME = "distribution.json"

_EDGES = tuple(float(edge) for edge in np.round(np.arange(-7, 2.01, 0.25), 2))  # powers of ten
_QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram: `counts[i]` positions lie between 10**edges[i] and 10**edges[i + 1], or beyond the last."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    quantiles: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> Distribution:
        """Count values, which are not negative except by rounding errors."""
        places = np.clip(np.log10(np.maximum(values, 1e-12)), _EDGES[0], _EDGES[-1])
        counts, _ = np.histogram(places, bins=np.asarray(_EDGES))
        quantiles = tuple((q, float(f"{np.quantile(values, q):.3g}")) for q in _QUANTILES)
        return cls(_EDGES, tuple(int(count) for count in counts), quantiles)

    def save(self, folder: Path) -> None:
        """Write the distribution beside the metrics."""
        (folder / NAME).write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> Distribution:
        """Read the distribution that `save` wrote."""
        raw = json.loads((folder / NAME).read_text())
        return cls(tuple(raw["edges"]), tuple(raw["counts"]), tuple((q, value) for q, value in raw["quantiles"]))
