"""Scores of the shipped cross-encoder against those of the float export, for many queries and documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from appliance.bundle import RerankerSpec
from appliance.bundle.manifest import TOKENIZER_NAME
from appliance.engine.texts.embedder import TokenPair
from appliance.text.tokenizer import Tokenizer
from quantize.evaluation import texts
from quantize.evaluation.metrics import Metrics
from quantize.evaluation.runners import float_session, load_reranker
from quantize.evaluation.text_models import Float32, Subject, TextEvaluation

_DOCUMENT_WORDS = [5, 10, 20, 40, 60, 90, 120, 160]
_QUERY_WORDS = [2, 4, 6, 9]
_NUM_QUERIES = 24
_STEP_WORDS = 173


def reranker_subject(
    float_folder: Path, quantized_folder: Path, checkpoint: Path, spec: RerankerSpec
) -> Subject[TokenPair]:
    """Load both forms of a cross-encoder and encode pairs of held-out text.

    The figures are the correlation of the logits and the agreement on the order of documents and on the best one.
    """
    sources = [texts.held_out_prose(), texts.held_out_code()]
    pairs = encoded_pairs(checkpoint, query_document_pairs(sources, _NUM_QUERIES), spec)
    quantized, reference = load_reranker(quantized_folder), FloatReranker(float_folder)
    return Subject(pairs, quantized.score, reference.score, len(pairs), _compare)


def query_document_pairs(sources: list[str], num_queries: int) -> list[tuple[str, str]]:
    """Pair each query with the same number of documents; the query is taken from one of them."""
    num_documents = len(_DOCUMENT_WORDS)
    documents = texts.snippets(sources, _DOCUMENT_WORDS * num_queries, _STEP_WORDS)
    pairs = []
    for index in range(num_queries):
        own = documents[index * num_documents : (index + 1) * num_documents]
        words = own[index % num_documents].split()
        query = " ".join(words[: _QUERY_WORDS[index % len(_QUERY_WORDS)]])
        pairs += [(query, document) for document in own]
    return pairs


def encoded_pairs(folder: Path, pairs: Sequence[tuple[str, str]], spec: RerankerSpec) -> list[TokenPair]:
    """Encode pairs as the device does: the document is cut if the pair is too long."""
    tokenizer = Tokenizer.from_file(folder / TOKENIZER_NAME)
    encoded = []
    for query, document in pairs:
        pairing = tokenizer.pairing(query, spec.prompt)
        room = max(0, pairing.room(spec.max_tokens))
        encoded.append(TokenPair(*pairing.join(pairing.encode(document)[:room])))
    return encoded


class FloatReranker:
    """The float graph: optimum's, with logits (1, 1), or one of a prompted model, with logits (1,)."""

    def __init__(self, folder: Path) -> None:
        self._session = float_session(folder)
        self._output = self._session.get_outputs()[0].name
        self._inputs = {value.name for value in self._session.get_inputs()}

    @property
    def takes_types(self) -> bool:
        """True if the model tells query and document apart by token types."""
        return "token_type_ids" in self._inputs

    def score(self, pair: TokenPair) -> Float32:
        """Return the logit (1,) of one pair."""
        ids = np.asarray([pair.tokens], np.int64)
        types = (np.arange(ids.shape[1]) >= pair.second_start).astype(np.int64)[None]
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
        logits = self._session.run([self._output], {name: feeds[name] for name in feeds if name in self._inputs})[0]
        return np.asarray(logits.reshape(1), np.float32)


def _compare(found: Float32, wanted: Float32) -> TextEvaluation:
    spread = float(wanted.std()) or 1.0
    by_query = found.reshape(_NUM_QUERIES, -1), wanted.reshape(_NUM_QUERIES, -1)
    metrics: Metrics = {
        "score_correlation": float(np.corrcoef(found, wanted)[0, 1]),
        "order_agreement": _order_agreement(*by_query),
        "top1_agreement": float((by_query[0].argmax(axis=1) == by_query[1].argmax(axis=1)).mean()),
        "pairs": float(len(found)),
    }
    return TextEvaluation(metrics, np.asarray(np.abs(found - wanted) / spread, np.float32))


def _order_agreement(found: Float32, wanted: Float32) -> float:
    """Return the share of pairs of one query's documents that both forms order alike."""
    first, second = np.triu_indices(found.shape[1], 1)
    signs = [np.sign(scores[:, first] - scores[:, second]) for scores in (found, wanted)]
    return float((signs[0] == signs[1]).mean())
