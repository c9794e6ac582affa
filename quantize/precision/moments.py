"""The second moments of rows that a matrix multiplies."""

from __future__ import annotations

import numpy as np
import torch

from quantize.graph.codec import Float32

_CHUNK = 2048  # rows of one product
_PANEL = 512  # columns of one product; those before it follow from symmetry


def second_moments(rows: Float32) -> Float32:
    """Return the sum of x x^T (K, K) over rows x (T, K)."""
    width = rows.shape[1]
    total = torch.zeros(width, width)
    for first in range(0, len(rows), _CHUNK):
        chunk = torch.from_numpy(np.asarray(rows[first : first + _CHUNK]))
        for at in range(0, width, _PANEL):
            total[at : at + _PANEL, at:].addmm_(chunk[:, at : at + _PANEL].T, chunk[:, at:])
    upper = total.triu_()
    moments: Float32 = (upper + upper.triu(1).T).numpy()
    return moments
