"""The witnesses of a decoder's float graph: transformers on the same text, and the perplexity of that text.

Each token of one stretch is predicted twice: after 128 tokens of a window of its own, and as part of a long window,
after 1,024 and more. A whole model predicts better with more text before; one with wrong positions does not.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import MODEL_DATA_NAME, TOKENIZER_NAME, Witness
from appliance.errors import QuantizeError
from quantize.evaluation import texts
from quantize.evaluation.framing import opening
from quantize.evaluation.hidden_states import HiddenStates
from quantize.evaluation.runners import runner_threads
from quantize.pipeline import PARTIAL
from quantize.precision.workers import Inline, WorkerDiedError, Workers
from quantize.progress import Progress
from quantize.witness.published import (
    LOGITS_NAME,
    POSITIONS_NAME,
    TOKENS_NAME,
    Float32,
    Published,
    decoder_places,
)
from quantize.witness.verdict import check_finite, rounded_up

_LONG, _FAR = 1536, 1024  # tokens of the long window, and of them those before the far stretch
_WARM_UP, _STRETCH = 128, 256
_COMPARED, _EVERY = 8, 64  # neighbouring positions that are compared with transformers, of each 64
_CHUNK = 64  # positions whose logits are in memory
_LAYERS = "quantize.witness.layers"  # not imported here for large models: it loads torch and transformers
_MOST_INLINE_BYTES = 1_000_000_000  # of the float graph
_MOST_NATS = 60.0  # a token; worse is shown as this
_DIGITS = 4

Tokens = NDArray[np.int64]
Head = Callable[[int, range], Float32]


def witness_decoder(
    source: Path,
    checkpoint: Path,
    float_folder: Path,
    spec: DecoderSpec,
    scratch: Path,
    progress: Progress,
    *,
    most_inline_bytes: int = _MOST_INLINE_BYTES,
) -> Witness:
    """Compute the float graph's perplexities, and compare its logits with those of transformers where it can run.

    transformers computes in this process if the float graph is small.
    """
    windows = _Windows(checkpoint, spec)
    hidden = HiddenStates.of(float_folder, windows.tokens, progress.part(0.0, 0.5))
    check_finite(np.concatenate(hidden.by_text))
    head = hidden.head()
    figures = windows.figures(head)
    ours = np.concatenate([head(0, rows) for rows in windows.compared])
    del head, hidden  # before transformers' own embedding and head
    rows = np.concatenate([np.asarray(rows) for rows in windows.compared])

    with (
        tempfile.TemporaryDirectory(dir=scratch, prefix=PARTIAL) as name,
        _worker(float_folder, most_inline_bytes) as worker,
    ):
        np.save(Path(name) / TOKENS_NAME, windows.tokens[0])
        np.save(Path(name) / POSITIONS_NAME, rows)

        def theirs(place: Published) -> Float32:
            worker.submit({"path": str(place.path), "read": place.read, "source": str(source), "folder": name})
            worker.next_result()
            return np.asarray(np.load(Path(name) / LOGITS_NAME), np.float32)

        witness = _held_against(decoder_places(source, checkpoint), theirs, ours, figures)
    progress.advance_to(1.0)
    return witness


def _worker(float_folder: Path, most_inline_bytes: int) -> Workers | Inline:
    """Return a process that computes with transformers: a large model leaves no memory to libraries that idle."""
    setup = {"threads": runner_threads()}
    if (float_folder / MODEL_DATA_NAME).stat().st_size > most_inline_bytes:
        return Workers(_LAYERS, setup, 1, "witness")
    from quantize.witness.layers import start

    return Inline(start(setup))


class _Windows:
    """The long window, and behind it the short ones over the same tokens."""

    def __init__(self, checkpoint: Path, spec: DecoderSpec) -> None:
        tokenizer = Tokenizer.from_file(str(checkpoint / TOKENIZER_NAME))
        first = np.asarray(opening(tokenizer), np.int64)
        ids = np.asarray(tokenizer.encode(texts.held_out_prose(), add_special_tokens=False).ids, np.int64)
        length = min(_LONG, spec.context_length, len(first) + len(ids))
        long: Tokens = np.concatenate([first, ids])[:length] % spec.vocab_size
        self._is_far = length >= _FAR + _STRETCH
        self._start = _FAR if self._is_far else min(_WARM_UP, length // 2)
        self._before = len(first) + _WARM_UP  # tokens of a short window before those that count
        starts = range(self._start, length, _STRETCH) if self._is_far else ()
        short = [np.concatenate([first, long[at - _WARM_UP : at + _STRETCH]]) for at in starts]
        self.tokens = [long, *short]
        self.compared = [range(at, min(at + _COMPARED, length)) for at in range(0, length, _EVERY)]

    def figures(self, head: Head) -> dict[str, float]:
        """Return the perplexities, and that of a table of the text's own frequencies."""
        long, *short = self.tokens
        share = np.array(list(Counter(long.tolist()).values())) / len(long)
        found = {"perplexity_of_frequencies": math.exp(-float((share * np.log(share)).sum()))}
        in_long = _log_probs(head, 0, long, self._start)
        if self._is_far:
            near = [_log_probs(head, at, window, self._before) for at, window in enumerate(short, 1)]
            found |= {"perplexity_near": _perplexity(near), "perplexity_far": _perplexity([in_long])}
        else:
            found["perplexity_near"] = _perplexity([in_long])
        return {name: float(f"{value:.{_DIGITS}g}") for name, value in found.items()}


def _held_against(
    candidates: Sequence[Published],
    compute: Callable[[Published], Float32],
    ours: Float32,
    figures: dict[str, float],
) -> Witness:
    """Compare with the first place from which transformers loads the model."""
    reason = None if candidates else "memory is short"
    for place in candidates:
        reason = place.reason or reason
        try:
            theirs = compute(place)
        except WorkerDiedError:
            raise
        except QuantizeError as err:
            reason = err.message
            continue
        difference = rounded_up(float(np.abs(ours - theirs).max() / (theirs.std() or 1.0)))
        return Witness(by="transformers", read=place.read, reason=reason, difference=difference, figures=figures)
    return Witness(by="perplexity", reason=reason, figures=figures)


def _log_probs(head: Head, text: int, tokens: Tokens, start: int) -> NDArray[np.float64]:
    """Return the log-probabilities of a text's tokens from `start` on."""
    found = []
    for at in range(start, len(tokens), _CHUNK):
        targets = tokens[at : at + _CHUNK]
        logits = head(text, range(at - 1, at - 1 + len(targets)))
        most = logits.max(axis=1, keepdims=True)
        total = np.log(np.exp(logits - most).sum(axis=1)) + most[:, 0]
        found.append(np.asarray(logits[np.arange(len(targets)), targets] - total, np.float64))
    return np.concatenate(found)


def _perplexity(parts: Iterable[NDArray[np.float64]]) -> float:
    return math.exp(min(-float(np.concatenate(list(parts)).mean()), _MOST_NATS))
