"""The loads of an embedding model: short and long texts, alone and in one batched request, and mixed lengths."""

from __future__ import annotations

import time

from appliance.bench.figures import Metric
from appliance.bench.loads import Load, Values
from appliance.bench.probe import Target
from appliance.bench.prompts import lengths, words

_BATCH = 32
_NUM_SINGLES = 8  # requests of one text for one sample; one alone is over too soon to be timed
_LONGEST_WORDS = 200
_SHORTEST_WORDS = 5


def embedding_loads() -> list[Load]:
    """Return the rows of the table, each in texts per second."""
    shapes = [(1, 20), (_BATCH, 20), (1, _LONGEST_WORDS), (_BATCH, _LONGEST_WORDS)]
    return [_uniform(num_texts, num_words) for num_texts, num_words in shapes] + [_mixed()]


def _uniform(num_texts: int, num_words: int) -> Load:
    async def run(target: Target, seed: int) -> Values:
        return await _texts_per_s(target, [num_words] * num_texts, seed)

    return Load((Metric("embeddings", f"{num_texts} x {num_words} words", "texts/s"),), run)


def _mixed() -> Load:
    async def run(target: Target, seed: int) -> Values:
        # One set of lengths for all runs: another set would be another amount of work.
        return await _texts_per_s(target, lengths(_BATCH, _SHORTEST_WORDS, _LONGEST_WORDS, "mixed"), seed)

    name = f"{_BATCH} x {_SHORTEST_WORDS} to {_LONGEST_WORDS} words"
    return Load((Metric("embeddings", name, "texts/s"),), run)


async def _texts_per_s(target: Target, num_words: list[int], seed: int) -> Values:
    num_requests = _NUM_SINGLES if len(num_words) == 1 else 1
    requests = [[words(n, "embed", seed, r, i) for i, n in enumerate(num_words)] for r in range(num_requests)]
    begin_s = time.perf_counter()
    for texts in requests:
        await target.embed(texts)
    return (num_requests * len(num_words) / (time.perf_counter() - begin_s),)
