"""Sampling: logits become a token. A draw depends on the seed and the token's position only, never on the batch.

It runs once a token, so it calls the arrays' own methods: numpy's functions of the same names wrap them in Python.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from appliance.engine.types import SamplingParams, Sequence, TokenLogprobs
from appliance.errors import ModelError

_BLOCK = 256  # weights that are added up together
_LEAST_EXPONENT = np.float32(-80.0)  # e to this is near the least normal float32
_NUCLEUS_DEPTHS = (4.0, 8.0, 16.0, 32.0)  # below the best logit: ranges to search for the candidates of top-p


def sample(logits: NDArray[np.float32], sequence: Sequence) -> tuple[int, TokenLogprobs | None]:
    """Choose the sequence's next token from its logits (V,), which may be overwritten.

    Raises:
        ModelError: a logit is not a number.
    """
    params = sequence.request.params
    logprobs = log_softmax(logits) if params.num_logprobs is not None else None
    _adjust(logits, sequence)
    token = int(logits.argmax()) if params.temperature == 0 else _draw(logits, params, sequence.num_generated)
    if not np.isfinite(logits[token]):
        raise ModelError("the model gave logits that are not numbers")
    if logprobs is None or params.num_logprobs is None:
        return token, None
    return token, _describe(logprobs, token, params.num_logprobs)


def score(logits: NDArray[np.float32], token: int, num_top: int) -> TokenLogprobs:
    """Return the log probabilities of a token that was not sampled but given."""
    return _describe(log_softmax(logits), token, num_top)


def _adjust(logits: NDArray[np.float32], sequence: Sequence) -> None:
    """Apply the repetition, presence and frequency penalties, then the bias; in place."""
    params = sequence.request.params
    if params.repetition_penalty != 1.0:
        seen = np.unique(np.asarray(sequence.tokens))
        values = logits[seen]
        logits[seen] = np.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    if params.presence_penalty or params.frequency_penalty:
        tokens, counts = np.unique(np.asarray(sequence.tokens[sequence.num_prompt :], np.int64), return_counts=True)
        logits[tokens] -= (params.presence_penalty + params.frequency_penalty * counts).astype(np.float32)
    for token, bias in params.logit_bias.items():
        logits[token] += np.float32(bias)


def _draw(logits: NDArray[np.float32], params: SamplingParams, place: int) -> int:
    scaled = logits / np.float32(params.temperature)
    best = scaled.max()
    if not np.isfinite(best):
        raise ModelError("the model gave logits that are not numbers")
    weights = _weights(scaled, best)
    uniform = np.random.Generator(np.random.Philox(key=params.seed, counter=place)).random()
    tokens = _candidates(scaled, weights, float(best), params)
    if tokens is None:
        return _pick(weights, uniform)
    return int(tokens[_pick(weights[tokens], uniform)])


def _weights(scaled: NDArray[np.float32], best: np.float32) -> NDArray[np.float32]:
    """Return likelihoods relative to the best one; zero instead of subnormal numbers, which are slow to add."""
    weights: NDArray[np.float32] = scaled - best
    if weights.min() >= _LEAST_EXPONENT:
        np.exp(weights, out=weights)
        return weights
    counts = weights > _LEAST_EXPONENT
    np.maximum(weights, _LEAST_EXPONENT, out=weights)
    np.exp(weights, out=weights)
    weights *= counts
    return weights


def _pick(weights: NDArray[np.float32], uniform: float) -> int:
    """Return the index at which the cumulated weights pass the uniform number: first among blocks, then within one."""
    whole = len(weights) // _BLOCK * _BLOCK
    blocks = np.append(weights[:whole].reshape(-1, _BLOCK).sum(axis=1), weights[whole:].sum())
    cumulated = blocks.cumsum(dtype=np.float64)
    target = uniform * float(cumulated[-1])
    block = min(int(cumulated.searchsorted(target, side="right")), int(blocks.nonzero()[0][-1]))
    inside = weights[block * _BLOCK :][:_BLOCK]
    before = float(cumulated[block - 1]) if block else 0.0
    index = int(inside.cumsum(dtype=np.float64).searchsorted(target - before, side="right"))
    return block * _BLOCK + min(index, int(inside.nonzero()[0][-1]))


def _candidates(
    scaled: NDArray[np.float32], weights: NDArray[np.float32], best: float, params: SamplingParams
) -> NDArray[np.int64] | None:
    """Return the tokens that top-k, top-p and min-p leave, most likely first; None if they leave all."""
    if not params.top_k and params.top_p >= 1.0 and not params.min_p:
        return None
    tokens = _likely(scaled, weights, best, params)
    tokens = tokens[(-scaled[tokens]).argsort(kind="stable")]
    if params.top_k:
        tokens = tokens[: params.top_k]
    if params.top_p < 1.0:
        mass = weights[tokens].cumsum(dtype=np.float64)
        total = mass[-1] if params.top_k else float(weights.sum(dtype=np.float64))
        tokens = tokens[: int(mass.searchsorted(params.top_p * total)) + 1]
    if params.min_p:
        tokens = tokens[weights[tokens] >= params.min_p]
    return tokens


def _likely(
    scaled: NDArray[np.float32], weights: NDArray[np.float32], best: float, params: SamplingParams
) -> NDArray[np.int64]:
    """Return a superset of the candidates that is small enough to sort."""
    if params.top_k:
        k = min(params.top_k, len(scaled))
        threshold = np.partition(scaled, len(scaled) - k)[len(scaled) - k]
        return np.asarray((scaled >= threshold).nonzero()[0])
    if params.top_p >= 1.0:
        return np.asarray((weights >= params.min_p).nonzero()[0])
    needed = params.top_p * float(weights.sum(dtype=np.float64))
    for depth in _NUCLEUS_DEPTHS:
        tokens: NDArray[np.int64] = (scaled >= best - depth).nonzero()[0]
        if float(weights[tokens].sum(dtype=np.float64)) >= needed:
            return tokens
    return np.arange(len(scaled))


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the log probabilities of logits (..., V), in nats."""
    shifted: NDArray[np.float64] = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def _describe(logprobs: NDArray[np.float64], token: int, num_top: int) -> TokenLogprobs:
    if not num_top:
        return TokenLogprobs(float(logprobs[token]), ())
    num_top = min(num_top, len(logprobs))
    tokens = np.argpartition(-logprobs, num_top - 1)[:num_top]
    tokens = tokens[np.lexsort((tokens, -logprobs[tokens]))]
    return TokenLogprobs(float(logprobs[token]), tuple((int(t), float(logprobs[t])) for t in tokens))
