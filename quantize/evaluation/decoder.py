"""What quantization cost, measured on the engine that ships: decoders against the fused float graph."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import MODEL_NAME, TOKENIZER_NAME
from appliance.engine.model_file import ModelFile
from appliance.engine.model_runner import OrtModelRunner
from appliance.engine.types import StepPlan
from quantize.evaluation import texts
from quantize.evaluation.framing import windows_of

WINDOW_TOKENS = 512
_NUM_PROSE_WINDOWS = 4
_NUM_CODE_WINDOWS = 2
_CHUNK_TOKENS = 128
_MAX_THREADS = 8

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Divergence:
    """One chunk's figures a position: KL in nats, whether both agree on the best token, and both log-likelihoods."""

    kl: NDArray[np.float32]
    agrees: NDArray[np.bool_]
    loglik_float: NDArray[np.float32]
    loglik: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DecoderEvaluation:
    """The figures for the manifest, and the KL of every position."""

    metrics: Metrics
    kl: NDArray[np.float32]


def evaluate_decoder(
    float_folder: Path, quantized_folder: Path, checkpoint: Path, spec: DecoderSpec, report: Callable[[float], None]
) -> DecoderEvaluation:
    """Mean and 99th percentile of KL, top-1 agreement, and both perplexities, on held-out text."""
    windows = held_out_windows(checkpoint, spec)
    capacity = max(len(window) for window in windows)
    reference = load_runner(float_folder, float_spec(spec), capacity=capacity)
    candidate = load_runner(quantized_folder, spec, capacity=capacity)
    parts = []
    for index, window in enumerate(windows):
        for chunk in _chunks(window):
            targets = window[chunk.start + 1 : chunk.stop + 1]
            parts.append(_compare(_log_probs(reference, window, chunk), _log_probs(candidate, window, chunk), targets))
        report((index + 1) / len(windows))
    kl = np.concatenate([part.kl for part in parts])
    metrics = {
        "kl_mean": float(kl.mean()),
        "kl_p99": float(np.quantile(kl, 0.99)),
        "top1_agreement": float(np.concatenate([part.agrees for part in parts]).mean()),
        "perplexity": float(np.exp(-np.concatenate([part.loglik for part in parts]).mean())),
        "perplexity_float": float(np.exp(-np.concatenate([part.loglik_float for part in parts]).mean())),
        "tokens": float(len(kl)),
    }
    return DecoderEvaluation(metrics, kl)


def perplexity(folder: Path, tokenizer_folder: Path, spec: DecoderSpec) -> float:
    """Of one model by itself, on the held-out text."""
    windows = held_out_windows(tokenizer_folder, spec)
    runner = load_runner(folder, spec, capacity=max(len(window) for window in windows))
    logliks = []
    for window in windows:
        for chunk in _chunks(window):
            targets = window[chunk.start + 1 : chunk.stop + 1]
            logliks.append(_log_probs(runner, window, chunk)[np.arange(len(targets)), targets])
    return float(np.exp(-np.concatenate(logliks).mean()))


def float_spec(spec: DecoderSpec) -> DecoderSpec:
    """The same model before quantization."""
    return spec.model_copy(update={"kv_cache_dtype": "float32"})


def held_out_windows(checkpoint: Path, spec: DecoderSpec) -> list[NDArray[np.int64]]:
    """Token windows that calibration never sees."""
    tokenizer = Tokenizer.from_file(str(checkpoint / TOKENIZER_NAME))
    length = min(WINDOW_TOKENS, spec.context_length)
    windows = []
    for text, limit in ((texts.held_out_prose(), _NUM_PROSE_WINDOWS), (texts.held_out_code(), _NUM_CODE_WINDOWS)):
        windows += windows_of(tokenizer, text, length=length, count=limit, vocab_size=spec.vocab_size)
    return windows


def runner_threads() -> int:
    """Threads for onnxruntime on this workstation."""
    return min(os.cpu_count() or 1, _MAX_THREADS)


def load_runner(folder: Path, spec: DecoderSpec, *, capacity: int, num_rows: int = 1) -> OrtModelRunner:
    """The engine's own runner over a folder's model."""
    return OrtModelRunner(
        ModelFile(folder / MODEL_NAME),
        spec,
        num_rows=num_rows,
        capacity=capacity,
        num_threads=runner_threads(),
        spinning=False,
    )


def _chunks(window: NDArray[np.int64]) -> list[range]:
    """The window's positions in steps small enough for large vocabularies; the last token predicts nothing."""
    count = len(window) - 1
    return [range(at, min(at + _CHUNK_TOKENS, count)) for at in range(0, count, _CHUNK_TOKENS)]


def _log_probs(runner: OrtModelRunner, window: NDArray[np.int64], chunk: range) -> NDArray[np.float32]:
    """(positions, V) for a chunk; those before it are in the cache already."""
    past_lens = np.array([chunk.start], np.int32)
    tokens = window[None, chunk.start : chunk.stop]
    logits = runner.run(StepPlan(0, tokens, past_lens, np.arange(len(chunk), dtype=np.int64)))
    logits -= logits.max(axis=1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), np.float32)


def _compare(reference: NDArray[np.float32], candidate: NDArray[np.float32], targets: NDArray[np.int64]) -> Divergence:
    positions = np.arange(len(targets))
    return Divergence(
        kl=(np.exp(reference) * (reference - candidate)).sum(axis=1),
        agrees=reference.argmax(axis=1) == candidate.argmax(axis=1),
        loglik_float=reference[positions, targets],
        loglik=candidate[positions, targets],
    )
