"""The table "In the engine" of docs/kernels.md: python -m tests.engine.kernels.engine_figures [FOLDER].

FOLDER holds a decoder's model.onnx; without it, the starter of LANTERN_HOME is measured. Both forms are made in a
temporary folder, and run in alternation with one thread: milliseconds of the computing thread's processor time, which
other work on the machine disturbs least, the least of seven rounds.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.kernels import LIBRARY, load_kernels
from appliance.engine.runtime import kernel_trial, preparation
from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.runtime.tuning import Feeds, decoder_feeds
from appliance.home import lantern_home

_NUM_ROUNDS = 7


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    num_past: int
    num_new: int
    num_slots: int = 1
    num_runs: int = 1


_Form = Callable[[_Case], ort.InferenceSession]

_CASES = (
    _Case("a token at context 128", 128, 1, num_runs=12),
    _Case("a token at context 1,024", 1024, 1, num_runs=8),
    _Case("a step of 8 sequences at context 128", 128, 1, num_slots=8, num_runs=6),
    _Case("a prompt of 96", 0, 96),
    _Case("a prompt of 512", 0, 512),
)


def main() -> None:
    """Print the table."""
    starter = lantern_home().bundles / "smollm2-135m-instruct" / "active"
    source = (Path(sys.argv[1]) if sys.argv[1:] else starter) / MODEL_NAME
    with tempfile.TemporaryDirectory() as scratch:
        stock, ours = (Path(scratch) / name for name in ("stock", "kernels"))
        stock.mkdir()
        ours.mkdir()
        preparation.write(source.resolve(), stock)
        choice = kernel_trial.write(load_kernels(), source.resolve(), stock, ours)
        sys.stdout.write(f"{choice.describe()}\n")
        for folder in (stock, ours):
            sizes = {p.name: f"{p.stat().st_size / 1e6:.0f} MB" for p in folder.glob("*.bin")}
            sys.stdout.write(f"{folder.name}: {sizes}\n")
        for line in _table(_loaded(stock, None, source), _loaded(ours, LIBRARY, source)):
            sys.stdout.write(f"{line}\n")
        sys.stdout.write(f"load {os.getloadavg()}\n")


def _loaded(folder: Path, kernels: Path | None, source: Path) -> _Form:
    weights = source.resolve().parent
    file = ModelFile(folder / MODEL_NAME, is_optimized=True, kernels=kernels, weights=weights)
    answer = file.session(1, spinning=False)
    prompt = file.prompt_session(1, spinning=False) or answer
    return lambda case: prompt if case.num_new > 1 else answer


def _table(
    stock: Callable[[_Case], ort.InferenceSession], ours: Callable[[_Case], ort.InferenceSession]
) -> Iterator[str]:
    for case in _CASES:
        sessions = (stock(case), ours(case))
        rounds = [[_run_ms(session, case) for session in sessions] for _ in range(_NUM_ROUNDS)]
        before, after = (min(taken) for taken in zip(*rounds, strict=True))
        yield f"| {case.name} | {before:.2f} -> {after:.2f} ({before / after:.2f} x) |"


def _run_ms(session: ort.InferenceSession, case: _Case) -> float:
    feeds = _feeds(session, case)
    session.run(None, feeds)
    begin_s = time.thread_time()
    for _ in range(case.num_runs):
        session.run(None, feeds)
    return (time.thread_time() - begin_s) / case.num_runs * 1e3


def _feeds(session: ort.InferenceSession, case: _Case) -> Feeds:
    """Return the inputs of a step of several slots, with room for all tokens."""
    capacity, total = 2048, case.num_past + case.num_new
    feeds = decoder_feeds(session, num_past=case.num_past, num_new=case.num_new)
    feeds["input_ids"] = np.ones((case.num_slots, case.num_new), np.int64)
    feeds["seqlens_k"] = np.full(case.num_slots, total - 1, np.int32)
    feeds["logit_rows"] = np.arange(1, case.num_slots + 1) * case.num_new - 1
    for name, past in feeds.items():
        if name.startswith("past_key_values."):
            feeds[name] = np.zeros((case.num_slots, past.shape[1], capacity, past.shape[3]), past.dtype)
    return feeds


if __name__ == "__main__":
    main()
