"""The cost of quantization in a decoder, measured against the fused float graph on the engine that ships."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import TOKENIZER_NAME
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.types import StepPlan
from quantize.evaluation import texts
from quantize.evaluation.framing import windows_of
from quantize.evaluation.hidden_states import HiddenStates
from quantize.evaluation.metrics import Metrics
from quantize.evaluation.runners import load_runner
from quantize.progress import SILENT, Progress

WINDOW_TOKENS = 512
_NUM_PROSE_WINDOWS = 4
_NUM_CODE_WINDOWS = 2
_CHUNK_TOKENS = 256  # each unpacks all weights once more by some arithmetics; 128 took a third longer there
_SLICE_POSITIONS = 8  # whose intermediate values stay in the cache, of 152,000 words also
_MOST_KEPT_BYTES = 1 << 30
_HIDDEN_NAME = "hidden.npz"
_ROOM = 2  # times the reference's size must be free on the disk


@dataclass(frozen=True, slots=True)
class Divergence:
    """One chunk's figures a position: KL in nats, agreement on the best token, and both log-likelihoods."""

    kl: NDArray[np.float32]
    agrees: NDArray[np.bool_]
    loglik_float: NDArray[np.float32]
    loglik: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DecoderEvaluation:
    """The figures for the manifest, and the KL of every position."""

    metrics: Metrics
    kl: NDArray[np.float32]


class Reference:
    """The float model on the held-out text, for all evaluations within a `with` block; computed once, block by block.

    Its hidden states stay in memory; `known` is the folder where `save` left them. The log-probabilities that the head
    makes of them are kept in a file without a name if they are few; else each evaluation makes them anew, some
    positions at a time.
    """

    def __init__(
        self,
        folder: Path,
        checkpoint: Path,
        spec: DecoderSpec,
        scratch: Path,
        *,
        known: Path | None = None,
        most_kept_bytes: int = _MOST_KEPT_BYTES,
    ) -> None:
        self.windows = held_out_windows(checkpoint, spec)
        self.capacity = max(len(window) for window in self.windows)
        self._folder, self._spec = folder, spec
        size_bytes = 4 * spec.vocab_size * sum(len(window) for window in self.windows)
        self._is_kept = size_bytes <= most_kept_bytes and shutil.disk_usage(scratch).free > _ROOM * size_bytes
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - `__exit__` closes it
        self._is_complete = False
        self._hidden = None if known is None else HiddenStates.load(folder, known / _HIDDEN_NAME)
        self._num_logits = spec.vocab_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def prepare(self, progress: Progress) -> None:
        """Compute the hidden states, unless an earlier evaluation has."""
        if self._hidden is None:
            self._hidden = HiddenStates.of(self._folder, self.windows, progress)
        progress.advance_to(1.0)

    def save(self, folder: Path) -> None:
        """Write the hidden states to a folder, for the evaluations of a later stage."""
        self.prepare(SILENT)
        assert self._hidden is not None
        self._hidden.save(folder / _HIDDEN_NAME)

    def log_probs(self) -> Iterator[NDArray[np.float32]]:
        """Yield the log-probabilities (positions, V) of each chunk of each window in turn."""
        assert self._hidden is not None
        self._file.seek(0)
        if self._is_complete:
            for chunk in (chunk for window in self.windows for chunk in _chunks(window)):
                yield np.fromfile(self._file, np.float32, len(chunk) * self._num_logits).reshape(len(chunk), -1)
            return
        head = self._hidden.head()
        for index, window in enumerate(self.windows):
            for chunk in _chunks(window):
                found = _log_softmax(head(index, chunk))
                self._num_logits = found.shape[1]
                if self._is_kept:
                    self._file.write(found.data)
                yield found
        self._file.flush()
        self._is_complete = self._is_kept


def evaluate_decoder(
    reference: Reference, quantized_folder: Path, spec: DecoderSpec, progress: Progress
) -> DecoderEvaluation:
    """Measure mean and 99th percentile of KL, top-1 agreement, and both perplexities, on held-out text."""
    with_floats, comparing = progress.parts(2)
    reference.prepare(with_floats)
    candidate = load_runner(quantized_folder, spec, capacity=reference.capacity)
    parts, wanted = [], reference.log_probs()
    for index, window in enumerate(reference.windows):
        for chunk in _chunks(window):
            targets = window[chunk.start + 1 : chunk.stop + 1]
            parts += _compare(next(wanted), _log_probs(candidate, window, chunk), targets)
        comparing.advance_to((index + 1) / len(reference.windows))
    assert next(wanted, None) is None  # which also completes the file
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
    """Measure the perplexity of one model by itself, on the held-out text."""
    windows = held_out_windows(tokenizer_folder, spec)
    runner = load_runner(folder, spec, capacity=max(len(window) for window in windows))
    logliks = []
    for window in windows:
        for chunk in _chunks(window):
            targets = window[chunk.start + 1 : chunk.stop + 1]
            logliks.append(_log_probs(runner, window, chunk)[np.arange(len(targets)), targets])
    return float(np.exp(-np.concatenate(logliks).mean()))


def held_out_windows(checkpoint: Path, spec: DecoderSpec) -> list[NDArray[np.int64]]:
    """Return token windows that calibration never sees."""
    tokenizer = Tokenizer.from_file(str(checkpoint / TOKENIZER_NAME))
    length = min(WINDOW_TOKENS, spec.context_length)
    windows = []
    for text, limit in ((texts.held_out_prose(), _NUM_PROSE_WINDOWS), (texts.held_out_code(), _NUM_CODE_WINDOWS)):
        windows += windows_of(tokenizer, text, length=length, count=limit, vocab_size=spec.vocab_size)
    return windows


def _chunks(window: NDArray[np.int64]) -> list[range]:
    """Split the window's positions into chunks small enough for large vocabularies; the last token predicts nothing."""
    count = len(window) - 1
    return [range(at, min(at + _CHUNK_TOKENS, count)) for at in range(0, count, _CHUNK_TOKENS)]


def _log_probs(runner: OrtModelRunner, window: NDArray[np.int64], chunk: range) -> NDArray[np.float32]:
    """Compute log-probabilities (positions, V) of a chunk; the K/V cache already holds the positions before it."""
    past_lens = np.array([chunk.start], np.int32)
    tokens = window[None, chunk.start : chunk.stop]
    return _log_softmax(runner.run(StepPlan(0, tokens, past_lens, np.arange(len(chunk), dtype=np.int64))))


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replace logits (positions, V) by their log-probabilities, some positions at a time."""
    for rows in _slices(len(logits)):
        part = logits[rows]
        part -= part.max(axis=1, keepdims=True)
        part -= np.log(np.exp(part).sum(axis=1, keepdims=True))
    return logits


def _compare(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], targets: NDArray[np.int64]
) -> list[Divergence]:
    found = []
    for rows in _slices(len(targets)):
        wanted, got, target = reference[rows], candidate[rows], targets[rows]
        positions = np.arange(len(target))
        found.append(
            Divergence(
                kl=(np.exp(wanted) * (wanted - got)).sum(axis=1),
                agrees=wanted.argmax(axis=1) == got.argmax(axis=1),
                loglik_float=wanted[positions, target],
                loglik=got[positions, target],
            )
        )
    return found


def _slices(count: int) -> list[slice]:
    return [slice(at, at + _SLICE_POSITIONS) for at in range(0, count, _SLICE_POSITIONS)]
