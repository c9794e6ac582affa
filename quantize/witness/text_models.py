"""The witnesses of text models: transformers on the same texts, and if an encoder finds passages that belong together.

Each topic of Python's language reference gives two neighbouring passages. A trained encoder finds the second one by the
first more often than the passages' token counts do; random weights do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from appliance.bundle import RerankerSpec
from appliance.bundle.manifest import Witness
from appliance.errors import QuantizeError
from quantize.evaluation import texts
from quantize.evaluation.encoder import FloatEncoder, encoder_of
from quantize.evaluation.reranker import FloatReranker, encoded_pairs, query_document_pairs
from quantize.evaluation.text_models import Float32
from quantize.progress import Progress
from quantize.sources.sentence import SentenceLayout
from quantize.witness.published import Published, places
from quantize.witness.verdict import check_finite, rounded_up

_PASSAGE_WORDS, _SKIPPED_WORDS = 40, 20
_NUM_QUERIES = 4
_DIGITS = 4


def witness_encoder(
    source: Path, checkpoint: Path, float_folder: Path, layout: SentenceLayout, progress: Progress
) -> Witness:
    """Compare the float graph's vectors with transformers', and count the passages that find their neighbour."""
    first, second = _passages()
    inputs = list(map(encoder_of(checkpoint, layout.max_tokens), (*first, *second)))
    ours = check_finite(FloatEncoder(float_folder, layout).embed(inputs))
    progress.advance_to(0.5)
    figures = {
        "own_found": _own_found(ours),
        "own_found_by_counts": _own_found(_counts(inputs)),
        "passages": float(len(first)),
    }

    def theirs(model: Any) -> Float32:
        import torch

        def vector(ids: Sequence[int]) -> Float32:
            row = torch.tensor([ids])
            hidden = model(input_ids=row, attention_mask=torch.ones_like(row)).last_hidden_state[0].numpy()
            return layout.vector(hidden)

        return np.stack([vector(ids) for ids in inputs])

    candidates = places(source, checkpoint)
    return _compared(ours, lambda place: place.outputs("AutoModel", theirs), candidates, "retrieval", figures)


def witness_reranker(
    source: Path,
    checkpoint: Path,
    float_folder: Path,
    spec: RerankerSpec,
    progress: Progress,
    *,
    answers: tuple[int, int] | None = None,
) -> Witness:
    """Compare the float graph's scores with those of transformers; `answers` are the tokens yes and no of a prompt."""
    sources = [texts.held_out_prose(), texts.held_out_code()]
    pairs = encoded_pairs(checkpoint, query_document_pairs(sources, _NUM_QUERIES), spec)
    reference = FloatReranker(float_folder)
    ours = check_finite(np.concatenate([reference.score(pair) for pair in pairs]))
    progress.advance_to(0.5)

    def theirs(model: Any) -> Float32:
        import torch

        found = []
        for pair in pairs:
            ids = torch.tensor([pair.tokens])
            feeds = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if reference.takes_types:
                feeds["token_type_ids"] = (torch.arange(ids.shape[1]) >= pair.second_start).long()[None]
            logits = model(**feeds).logits[0].numpy()
            found.append(logits if answers is None else [logits[-1, answers[0]] - logits[-1, answers[1]]])
        return np.concatenate(found)

    def scores(place: Published) -> Float32:
        auto_class = "AutoModelForSequenceClassification" if answers is None else "AutoModelForCausalLM"
        return place.outputs(auto_class, theirs)

    return _compared(ours, scores, places(source, checkpoint), "none", {})


def _compared(
    ours: Float32,
    theirs: Callable[[Published], Float32],
    candidates: Sequence[Published],
    otherwise: str,
    figures: dict[str, float],
) -> Witness:
    """Compare with the first place from which transformers loads the model; `otherwise` names what is left without."""
    figures = {name: float(f"{value:.{_DIGITS}g}") for name, value in figures.items()}
    reason = None if candidates else "memory is short"
    for place in candidates:
        reason = place.reason or reason
        try:
            wanted = theirs(place)
        except QuantizeError as err:
            reason = err.message
            continue
        difference = rounded_up(float(np.abs(ours - wanted).max() / (wanted.std() or 1.0)))
        return Witness(by="transformers", read=place.read, reason=reason, difference=difference, figures=figures)
    return Witness(by=otherwise, reason=reason, figures=figures)


def _passages() -> tuple[list[str], list[str]]:
    """Return the first and the second passage of each topic that is long enough."""
    least = _SKIPPED_WORDS + 3 * _PASSAGE_WORDS
    topics = [words[_SKIPPED_WORDS:] for text in texts.prose() if len(words := text.split()) >= least]
    return (
        [" ".join(words[:_PASSAGE_WORDS]) for words in topics],
        [" ".join(words[_PASSAGE_WORDS : 2 * _PASSAGE_WORDS]) for words in topics],
    )


def _own_found(vectors: Float32) -> float:
    """Return the share of first passages, the vectors' upper half, whose nearest second passage is their own."""
    first, second = np.split(vectors, 2)
    return float(((first @ second.T).argmax(axis=1) == np.arange(len(first))).mean())


def _counts(inputs: Sequence[Sequence[int]]) -> Float32:
    """Return a vector of unit length for each text: how often each token is in it."""
    columns = {token: at for at, token in enumerate(sorted({token for ids in inputs for token in ids}))}
    found = np.zeros((len(inputs), len(columns)), np.float32)
    for row, ids in enumerate(inputs):
        for token, count in Counter(ids).items():
            found[row, columns[token]] = count
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)
