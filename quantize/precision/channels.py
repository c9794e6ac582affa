"""The mean square of each channel, measured on the float graph over the calibration text, block by block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantize.evaluation.segments import blocks_of, feeds_of, walk
from quantize.progress import Progress

__all__ = ["channel_moments", "feeds_of"]


def channel_moments(
    float_folder: Path,
    widths: dict[str, int],
    windows: NDArray[np.int64],
    progress: Progress,
) -> dict[str, NDArray[np.float32]]:
    """Return the mean square of each channel of the values in `widths` (name to K)."""
    sums = {name: np.zeros(width, np.float64) for name, width in widths.items()}
    feeds = feeds_of(float_folder, list(windows))
    for _, _, values in walk(float_folder, blocks_of(float_folder, list(widths)), feeds, progress):
        for name, value in values.items():
            sums[name] += np.square(value, dtype=np.float64).reshape(-1, widths[name]).sum(axis=0)
    return {name: np.asarray(total / windows.size, np.float32) for name, total in sums.items()}
