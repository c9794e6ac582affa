"""The rows that a float graph's matrices multiply over the calibration text, in files."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from quantize.evaluation.segments import Feeds, Segment, segments_of, walk
from quantize.graph.factors import Factors
from quantize.precision.kv_scales import KvPeaks
from quantize.progress import Progress

__all__ = ["Segment", "run_segments", "segments_of"]


def run_segments(
    folder: Path,
    segments: Sequence[Segment],
    feeds: Sequence[Feeds],
    scratch: Path,
    progress: Progress,
    *,
    peaks: KvPeaks | None = None,
    factors: Factors | None = None,
) -> Iterator[dict[str, Path]]:
    """Run all texts through one segment after the other; yield each segment's files of wanted values, in float32.

    A file holds the rows of all texts, and belongs to the caller, who removes it. Wanted keys and values have no file;
    they go to `peaks`.
    """
    watched = frozenset(() if peaks is None else peaks.names)
    runs = walk(folder, segments, feeds, progress, factors=factors)
    for index, found in itertools.groupby(runs, key=lambda run: run[0]):
        paths = {
            name: scratch / f"{index}-{at}.rows"
            for at, name in enumerate(segments[index].wanted)
            if name not in watched
        }
        with contextlib.ExitStack() as stack:
            files = {name: stack.enter_context(path.open("wb")) for name, path in paths.items()}
            for _, _, values in found:
                if peaks is not None:
                    for name in watched.intersection(values):
                        peaks.add(name, values[name])
                for name, file in files.items():
                    file.write(np.ascontiguousarray(values[name], np.float32).data)
        yield paths
