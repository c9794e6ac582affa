"""Sentence vectors of the shipped graph against those of the float graph, for many snippets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.bundle import EncoderSpec
from appliance.bundle.manifest import TOKENIZER_NAME
from appliance.text.tokenizer import Tokenizer
from quantize.evaluation import texts
from quantize.evaluation.metrics import Metrics
from quantize.evaluation.runners import float_session, load_embedder
from quantize.evaluation.similarity import RatedPair, spearman
from quantize.evaluation.text_models import Float32, Subject, TextEvaluation
from quantize.sources.sentence import SentenceLayout

_LENGTHS = [1, 2, 4, 8, 12, 20, 30, 50, 80, 120]  # words
_NUM_SNIPPETS = 240
_STEP_WORDS = 131
_BATCH = 16

Tokens = list[int]


def encoder_subject(
    float_folder: Path,
    quantized_folder: Path,
    checkpoint: Path,
    spec: EncoderSpec,
    layout: SentenceLayout,
    rated: Sequence[RatedPair] = (),
) -> Subject[Tokens]:
    """Load both forms of an encoder and encode the held-out snippets.

    The figures are cosines to the float vectors and the agreement on each snippet's nearest neighbour; with rated pairs
    also the Spearman correlation of both forms.
    """
    encode = encoder_of(checkpoint, spec.max_tokens)
    lengths = _LENGTHS * (_NUM_SNIPPETS // len(_LENGTHS))
    snippets = texts.snippets([texts.held_out_prose(), texts.held_out_code()], lengths, _STEP_WORDS)
    quantized, reference = load_embedder(quantized_folder, spec), FloatEncoder(float_folder, layout)

    def compare(found: Float32, wanted: Float32) -> TextEvaluation:
        compared = _compare(found, wanted)
        if not rated:
            return compared
        figures = {
            "spearman": spearman(rated, lambda pairs: quantized.embed([encode(text) for text in pairs])),
            "spearman_float": spearman(rated, lambda pairs: reference.embed([encode(text) for text in pairs])),
            "rated_pairs": float(len(rated)),
        }
        return TextEvaluation(compared.metrics | figures, compared.differences)

    inputs = [encode(text) for text in snippets]
    return Subject(inputs, quantized.embed, lambda ids: reference.embed([ids]), _BATCH, compare)


class FloatEncoder:
    """The float graph: optimum's export up to the last hidden state, or one that pools by itself."""

    def __init__(self, folder: Path, layout: SentenceLayout) -> None:
        self._session = float_session(folder)
        self._layout = layout
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._pools = self._session.get_outputs()[0].name == "sentence_embedding"

    def embed(self, sequences: Sequence[Sequence[int]]) -> Float32:
        """Return unit vectors (N, D), each text computed in a run of its own."""
        return np.concatenate([self._vector(ids) for ids in sequences])

    def _vector(self, ids: Sequence[int]) -> Float32:
        row = np.asarray([ids], np.int64)
        feeds = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
        found = self._session.run(None, {name: value for name, value in feeds.items() if name in self._inputs})[0]
        return np.asarray(found if self._pools else self._layout.vector(found[0])[None], np.float32)


def encoder_of(folder: Path, max_tokens: int) -> Callable[[str], Tokens]:
    """Return the function that encodes a text as the device does."""
    tokenizer = Tokenizer.from_file(folder / TOKENIZER_NAME)
    return lambda text: list(tokenizer.cut(tokenizer.encode_framed(text), max_tokens))


def _compare(found: Float32, wanted: Float32) -> TextEvaluation:
    cosines = (found * wanted).sum(axis=1)
    metrics: Metrics = {
        "cosine_mean": float(cosines.mean()),
        "cosine_min": float(cosines.min()),
        "neighbour_agreement": float((_nearest(found) == _nearest(wanted)).mean()),
        "snippets": float(len(cosines)),
    }
    return TextEvaluation(metrics, 1 - cosines)


def _nearest(vectors: Float32) -> NDArray[np.intp]:
    """Return for each row the other row with the largest cosine."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    return np.asarray(cosines.argmax(axis=1))
