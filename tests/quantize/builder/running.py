"""A built decoder run as the engine runs it, held against published logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.types import StepPlan
from quantize.builder.decoder import build_decoder
from quantize.builder.weights import checkpoint_weights
from quantize.sources.decoder_config import read_decoder_config
from tests.quantize.tiny import tiny_spec

ROW_LENGTHS = (30, 12, 21)
MOST = 1e-4  # of the spread of the first row's logits
_CAPACITY, _SLOTS = 64, 3
_CHUNKS = ((0, 17), (17, 26), (26, 27), (27, 28), (28, 30))
_OTHER_CHUNKS = ((0, 30),), ((0, 2), (2, 9), (9, 30)), ((0, 25), (25, 28), (28, 30))


def assert_computes(
    checkpoint: Path, target: Path, rows: Sequence[NDArray[np.int64]], expected: Sequence[NDArray[np.float32]]
) -> float:
    """Build a canonical checkpoint, and compare chunked prefill, decode, and rows of different length.

    `expected`: the logits (T, V) of each row. Returns the largest difference, relative to the first row's spread.
    """
    runner = built_runner(checkpoint, target)
    spread = float(expected[0].std())
    found = [float(np.abs(chunked(runner, rows[0], _CHUNKS) - expected[0]).max())]
    lens = np.array([10, 3, 7], np.int32)
    for row, length in enumerate(lens):
        _run_chunk(runner, row, rows[row][:length], 0)
    for _ in range(5):
        tokens = np.array([[rows[row][length]] for row, length in enumerate(lens)])
        logits = runner.run(StepPlan(0, tokens, lens, np.arange(_SLOTS)))
        wanted = np.stack([expected[row][length] for row, length in enumerate(lens)])
        found.append(float(np.abs(logits - wanted).max()))
        lens = lens + np.int32(1)
    assert max(found) <= MOST * spread
    return max(found) / spread


def assert_no_cut_changes_a_bit(runner: OrtModelRunner, row: NDArray[np.int64]) -> None:
    """Compare the logits of a prompt that is computed in chunks of two tokens and more, cut in several ways."""
    first, *others = (chunked(runner, row, chunks) for chunks in _OTHER_CHUNKS)
    for other in others:
        np.testing.assert_array_equal(first, other)


def built_runner(checkpoint: Path, target: Path) -> OrtModelRunner:
    """Build a canonical checkpoint and load its graph."""
    config = read_decoder_config(checkpoint)
    target.mkdir()
    build_decoder(checkpoint_weights(checkpoint), config, target, context_length=_CAPACITY)
    model = ModelFile(target / "model.onnx")
    return OrtModelRunner(model, tiny_spec(config), num_slots=_SLOTS, capacity=_CAPACITY, num_threads=1)


def chunked(runner: OrtModelRunner, row: NDArray[np.int64], chunks: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
    """Compute a whole row in chunks, and return its logits (T, V)."""
    return np.concatenate([_run_chunk(runner, 0, row[start:stop], start) for start, stop in chunks])


def _run_chunk(runner: OrtModelRunner, slot: int, tokens: NDArray[np.int64], past: int) -> NDArray[np.float32]:
    rows = np.arange(len(tokens), dtype=np.int64)
    return runner.run(StepPlan(slot, tokens[None], np.array([past], np.int32), rows))
