"""Sentence vectors of the shipped graph against those of the float export, for many snippets, alone and in batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.provider import session_options
from quantize.evaluation import texts
from quantize.evaluation.decoder import Metrics, runner_threads
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
    layout: SentenceLayout,
    report: Callable[[float], None],
) -> EncoderEvaluation:
    """Mean and least cosine to the float vectors, and the largest difference that a batch makes to a vector."""
    tokenizer = load_tokenizer(checkpoint)
    lengths = _LENGTHS * (_NUM_SNIPPETS // len(_LENGTHS))
    snippets = texts.snippets([texts.held_out_prose(), texts.held_out_code()], lengths, _STEP_WORDS)
    tokens = [tokenizer.encode(text).ids[: layout.max_tokens] for text in snippets]
    reference, candidate = _session(float_folder), _session(quantized_folder)
    alone, expected = [], []
    for index, ids in enumerate(tokens):
        alone.append(embed(candidate, [ids]))
        expected.append(_float_vectors(reference, [ids], layout))
        report(0.9 * (index + 1) / len(tokens))
    one_by_one, wanted = np.concatenate(alone), np.concatenate(expected)
    batched = np.concatenate([embed(candidate, tokens[at : at + _BATCH]) for at in range(0, len(tokens), _BATCH)])
    cosines = (one_by_one * wanted).sum(axis=1)
    metrics = {
        "cosine_mean": float(cosines.mean()),
        "cosine_min": float(cosines.min()),
        "batch_difference": float(np.abs(batched - one_by_one).max()),
        "snippets": float(len(tokens)),
    }
    return EncoderEvaluation(metrics, cosines)


def embed(session: ort.InferenceSession, batch: list[list[int]]) -> Vectors:
    """Unit vectors (B, D) of a shipped encoder."""
    ids, mask = _padded(batch)
    vectors: Vectors = session.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": mask})[0]
    return vectors


def _float_vectors(session: ort.InferenceSession, batch: list[list[int]], layout: SentenceLayout) -> Vectors:
    ids, mask = _padded(batch)
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    known = {value.name for value in session.get_inputs()}
    hidden = session.run([session.get_outputs()[0].name], {k: v for k, v in feeds.items() if k in known})[0]
    if layout.pooling == "cls":
        pooled = hidden[:, 0]
    else:
        pooled = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), np.float32)


def _padded(batch: list[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    ids = np.zeros((len(batch), max(map(len, batch))), np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(batch):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return ids, mask


def _session(folder: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(folder / MODEL_NAME), session_options(runner_threads()))
