"""Sentence vectors of the shipped graph against those of the float export, for many snippets, alone and in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.bundle import EncoderSpec
from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.embedder import Embedder
from appliance.engine.model_file import ModelFile
from appliance.engine.provider import session_options
from quantize.evaluation import texts
from quantize.evaluation.decoder import Metrics, runner_threads
from quantize.evaluation.similarity import RatedPair, spearman
from quantize.sources.sentence import SentenceLayout, load_tokenizer

_LENGTHS = [1, 2, 4, 8, 12, 20, 30, 50, 80, 120]  # words
_NUM_SNIPPETS = 240
_STEP_WORDS = 131
_BATCH = 16

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EncoderEvaluation:
    """The figures for the manifest, and the cosine of every snippet."""

    metrics: Metrics
    cosines: NDArray[np.float32]


def evaluate_encoder(
    float_folder: Path,
    quantized_folder: Path,
    checkpoint: Path,
    spec: EncoderSpec,
    layout: SentenceLayout,
    report: Callable[[float], None],
    rated: Sequence[RatedPair] = (),
) -> EncoderEvaluation:
    """Cosines to the float vectors, agreement on each snippet's nearest neighbour, and what a batch changes.

    With rated pairs also the Spearman correlation of both models.
    """
    encode = _encoder_of(checkpoint, layout.max_tokens)
    lengths = _LENGTHS * (_NUM_SNIPPETS // len(_LENGTHS))
    snippets = texts.snippets([texts.held_out_prose(), texts.held_out_code()], lengths, _STEP_WORDS)
    tokens = [encode(text) for text in snippets]
    candidate = load_embedder(quantized_folder, spec)
    reference = FloatEncoder(float_folder, layout)
    alone, expected = [], []
    for index, ids in enumerate(tokens):
        alone.append(candidate.embed([ids]))
        expected.append(reference.embed([ids]))
        report(0.9 * (index + 1) / len(tokens))
    one_by_one, wanted = np.concatenate(alone), np.concatenate(expected)
    batched = np.concatenate([candidate.embed(tokens[at : at + _BATCH]) for at in range(0, len(tokens), _BATCH)])
    cosines = (one_by_one * wanted).sum(axis=1)
    metrics = {
        "cosine_mean": float(cosines.mean()),
        "cosine_min": float(cosines.min()),
        "neighbour_agreement": float((_nearest(one_by_one) == _nearest(wanted)).mean()),
        "batch_difference": float(np.abs(batched - one_by_one).max()),
        "snippets": float(len(tokens)),
    }
    if rated:
        metrics["spearman"] = spearman(rated, lambda found: candidate.embed([encode(text) for text in found]))
        metrics["spearman_float"] = spearman(rated, lambda found: reference.embed([encode(text) for text in found]))
        metrics["rated_pairs"] = float(len(rated))
    return EncoderEvaluation(metrics, cosines)


def load_embedder(folder: Path, spec: EncoderSpec) -> Embedder:
    """The engine's own embedder over a folder's model."""
    return Embedder(ModelFile(folder / MODEL_NAME), spec, num_threads=runner_threads())


class FloatEncoder:
    """The float graph: optimum's export up to the last hidden state, or one that pools by itself."""

    def __init__(self, folder: Path, layout: SentenceLayout) -> None:
        self._session = ort.InferenceSession(str(folder / MODEL_NAME), session_options(runner_threads()))
        self._layout = layout
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._pools = self._session.get_outputs()[0].name == "sentence_embedding"

    def embed(self, sequences: Sequence[Sequence[int]]) -> Vectors:
        """Unit vectors (N, D), one text a run."""
        return np.concatenate([self._vector(ids) for ids in sequences])

    def _vector(self, ids: Sequence[int]) -> Vectors:
        row = np.asarray([ids], np.int64)
        feeds = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
        found = self._session.run(None, {name: value for name, value in feeds.items() if name in self._inputs})[0]
        if not self._pools:
            found = found[:, 0] if self._layout.pooling == "cls" else found.mean(axis=1)
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def _encoder_of(checkpoint: Path, max_tokens: int) -> Callable[[str], list[int]]:
    tokenizer = load_tokenizer(checkpoint)

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text).ids
        return ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]]

    return encode


def _nearest(vectors: Vectors) -> NDArray[np.intp]:
    """Of each row, the other row with the largest cosine."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    return np.asarray(cosines.argmax(axis=1))
