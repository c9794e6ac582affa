"""The child process that tries a GPU: its logits against the processor's, through all that serving does.

Prints the speed of a short request relative to the processor; fails if the logits differ by more than rounding, or if
the GPU has no memory, lacks a kernel, or does not answer.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec, Manifest
from appliance.bundle.manifest import MANIFEST_NAME, MODEL_NAME
from appliance.engine.kernels import LIBRARY
from appliance.engine.runtime.gpu import made_graph
from appliance.engine.runtime.kernel_choice import RECORD_NAME
from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.preparation import TUNING_NAME
from appliance.engine.runtime.tuning import Tuning
from appliance.engine.sampler import log_softmax
from appliance.engine.types import ModelRunner, StepPlan
from appliance.errors import LanternError, ModelError

_CAPACITY = 256
_CHUNKS = (64, 32)  # tokens of the prompt
_NUM_STEPS = 8
_ANSWER = 128  # tokens of the request that is timed
# Of lengths that were not run before: a provider that compiles for every shape has to show what that costs.
_TIMED_PROMPTS = (97, 121)
# Nats a token. The processor's products quantize activations, a GPU's do not: about 0.01; a wrong kernel gives several.
_MOST_KL = 0.1


def agree(expected: ModelRunner, found: ModelRunner) -> bool:
    """Return True if two runners give nearly the same logits for chunks, moved slots, and steps of several slots."""
    a, b = (_logits(runner) for runner in (expected, found))
    return bool(np.isfinite(b).all() and _kl(a, b) <= _MOST_KL)


def request_s(runner: ModelRunner) -> float:
    """Return the seconds of a short request, as it would be after the first one."""
    tokens = _tokens(runner.vocab_size, _CAPACITY)
    best_s = float("inf")
    for length in _TIMED_PROMPTS:
        begin_s = time.perf_counter()
        _run(runner, 0, tokens[None, :length], [0])
        prompt_s = time.perf_counter() - begin_s
        begin_s = time.perf_counter()
        for i in range(length, length + _NUM_STEPS):
            _run(runner, 0, tokens[None, i : i + 1], [i])
        best_s = min(best_s, prompt_s + _ANSWER * (time.perf_counter() - begin_s) / _NUM_STEPS)
    return best_s


def _logits(runner: ModelRunner) -> NDArray[np.float32]:
    """Return logits (N, V) of all that a runner can do; the same tokens for each."""
    tokens = _tokens(runner.vocab_size, _CAPACITY)
    found, past = [], 0
    for length in _CHUNKS:
        found.append(_run(runner, 2, tokens[None, past : past + length], [past], all_rows=True))
        past += length
    runner.swap_slots(2, 0, past)
    runner.copy_slot(0, 1, past)
    pairs = np.repeat(tokens[:, None, None], 2, axis=1)
    found += [_run(runner, 0, pairs[i], [i, i]) for i in range(past, past + _NUM_STEPS)]
    return np.concatenate(found)


def _run(
    runner: ModelRunner, first_slot: int, ids: NDArray[np.int64], past: list[int], *, all_rows: bool = False
) -> NDArray[np.float32]:
    last = np.arange(ids.size) if all_rows else np.arange(1, len(ids) + 1) * ids.shape[1] - 1
    plan = StepPlan(first_slot, ids, np.array(past, np.int32), last, "prompt" if ids.shape[1] > 1 else "answer")
    return runner.run(plan).copy()


def _tokens(vocab_size: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng(7).integers(0, vocab_size, count, dtype=np.int64)


def _kl(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return the mean Kullback-Leibler divergence of the rows, in nats."""
    p, q = (log_softmax(logits) for logits in (expected, found))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def _main(bundle: Path, folder: Path, provider: str) -> str:
    spec = Manifest.from_bytes((bundle / MANIFEST_NAME).read_bytes()).model
    if not isinstance(spec, DecoderSpec):
        raise ModelError("only decoders run on a GPU")
    tuning = Tuning.read(folder / TUNING_NAME)
    device = made_graph(bundle, folder, provider)
    kernels = LIBRARY if (folder / RECORD_NAME).exists() else None
    files = (
        ModelFile(folder / MODEL_NAME, is_optimized=True, tuning=tuning, kernels=kernels, weights=bundle),
        ModelFile(device.path, device=device),
    )
    processor, other = (
        OrtModelRunner(
            file, spec, num_slots=3, capacity=_CAPACITY, num_threads=tuning.num_threads, spinning=tuning.spinning
        )
        for file in files
    )
    if not agree(processor, other):
        raise ModelError(f"the logits of {provider} differ from those of the processor")
    return f"{request_s(processor) / request_s(other):.2f}"


if __name__ == "__main__":
    try:
        print(_main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))  # noqa: T201
    except (LanternError, OSError) as err:
        sys.exit(str(err))
