from __future__ import annotations

import numpy as np

from tests.quantize.dithered import dithered


def test_weights_leave_their_grid_by_at_most_half_a_step() -> None:
    random = np.random.default_rng(1)
    steps = random.uniform(0.01, 0.1, (8, 4, 1)).astype(np.float32)
    codes = random.permuted(np.tile(np.arange(16, dtype=np.float32) - 8, (8, 4, 1)), axis=-1)
    grid = (codes * steps).reshape(8, 64)
    moved = dithered(grid, np.random.default_rng(2))
    off = np.abs(moved - grid).reshape(8, 4, 16) / steps
    assert off.max() <= 0.5001
    assert 0.2 < off.mean() < 0.3
    assert np.array_equal(dithered(np.zeros((2, 32), np.float32), random), np.zeros((2, 32), np.float32))
