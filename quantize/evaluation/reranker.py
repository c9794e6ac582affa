"""Scores of the shipped cross-encoder against those of the float export, for many queries and documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.bundle.manifest import MODEL_NAME, TOKENIZER_NAME
from appliance.engine.embedder import Reranker, TokenPair
from appliance.engine.model_file import ModelFile
from appliance.engine.provider import session_options
from appliance.text.tokenizer import Tokenizer
from quantize.evaluation import texts
from quantize.evaluation.decoder import Metrics, runner_threads

_DOCUMENT_WORDS = [5, 10, 20, 40, 60, 90, 120, 160]
_QUERY_WORDS = [2, 4, 6, 9]
_NUM_QUERIES = 24
_STEP_WORDS = 173

Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RerankerEvaluation:
    """The figures for the manifest, and each pair's difference as a share of the scores' spread."""

    metrics: Metrics
    differences: NDArray[np.float32]


def evaluate_reranker(
    float_folder: Path,
    quantized_folder: Path,
    checkpoint: Path,
    max_tokens: int,
    report: Callable[[float], None],
) -> RerankerEvaluation:
    """Correlation of the logits, agreement on the order of documents and on the best one, and what a batch changes."""
    sources = [texts.held_out_prose(), texts.held_out_code()]
    pairs = encoded_pairs(checkpoint, query_document_pairs(sources, _NUM_QUERIES), max_tokens)
    candidate = Reranker(ModelFile(quantized_folder / MODEL_NAME), num_threads=runner_threads())
    reference = ort.InferenceSession(str(float_folder / MODEL_NAME), session_options(runner_threads()))
    found, wanted = [], []
    for index, pair in enumerate(pairs):
        found.append(candidate.score([pair]))
        wanted.append(_float_score(reference, pair))
        report(0.9 * (index + 1) / len(pairs))
    alone, expected = np.concatenate(found), np.concatenate(wanted)
    spread = float(expected.std()) or 1.0
    by_query = (alone.reshape(_NUM_QUERIES, -1), expected.reshape(_NUM_QUERIES, -1))
    metrics = {
        "score_correlation": float(np.corrcoef(alone, expected)[0, 1]),
        "order_agreement": _order_agreement(*by_query),
        "top1_agreement": float((by_query[0].argmax(axis=1) == by_query[1].argmax(axis=1)).mean()),
        "batch_difference": float(np.abs(candidate.score(pairs) - alone).max()),
        "pairs": float(len(pairs)),
    }
    return RerankerEvaluation(metrics, np.asarray(np.abs(alone - expected) / spread, np.float32))


def query_document_pairs(sources: list[str], num_queries: int) -> list[tuple[str, str]]:
    """For each query the same number of documents; the query is taken from one of them."""
    num_documents = len(_DOCUMENT_WORDS)
    documents = texts.snippets(sources, _DOCUMENT_WORDS * num_queries, _STEP_WORDS)
    pairs = []
    for index in range(num_queries):
        own = documents[index * num_documents : (index + 1) * num_documents]
        words = own[index % num_documents].split()
        query = " ".join(words[: _QUERY_WORDS[index % len(_QUERY_WORDS)]])
        pairs += [(query, document) for document in own]
    return pairs


def encoded_pairs(folder: Path, pairs: Sequence[tuple[str, str]], max_tokens: int) -> list[TokenPair]:
    """As the device encodes them: the document is cut where the pair is too long."""
    tokenizer = Tokenizer.from_file(folder / TOKENIZER_NAME)
    frame = tokenizer.pair_frame
    encoded = []
    for query, document in pairs:
        first = tokenizer.encode(query)
        room = max(0, frame.room_beside(first, max_tokens))
        encoded.append(TokenPair(*frame.join(first, tokenizer.encode(document)[:room])))
    return encoded


def _float_score(session: ort.InferenceSession, pair: TokenPair) -> Scores:
    ids = np.asarray([pair.tokens], np.int64)
    types = (np.arange(ids.shape[1]) >= pair.second_start).astype(np.int64)[None]
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
    known = {value.name for value in session.get_inputs()}
    logits = session.run(["logits"], {name: value for name, value in feeds.items() if name in known})[0]
    return np.asarray(logits[:, 0], np.float32)


def _order_agreement(found: Scores, wanted: Scores) -> float:
    """The share of pairs of one query's documents that both order alike."""
    first, second = np.triu_indices(found.shape[1], 1)
    signs = [np.sign(scores[:, first] - scores[:, second]) for scores in (found, wanted)]
    return float((signs[0] == signs[1]).mean())
