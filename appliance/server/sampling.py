"""What a request says about sampling becomes SamplingParams, with the model's own defaults below."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from appliance.engine.types import SamplingParams
from appliance.errors import InvalidRequestError
from appliance.models import ChatModel
from appliance.server.chat_wire import ChatRequest

_SEED_MASK = (1 << 64) - 1
_SEED_STEP = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: seeds of neighbouring choices share nothing


def chat_sampling(wire: ChatRequest, model: ChatModel, num_prompt_tokens: int) -> list[SamplingParams]:
    """One SamplingParams for each of the `n` choices; the first has the request's own seed.

    Raises:
        InvalidRequestError: a field that contradicts another one or the model.
    """
    if wire.top_logprobs is not None and not wire.logprobs:
        raise InvalidRequestError(
            "Invalid 'top_logprobs': it needs 'logprobs' to be true.", param="top_logprobs", code="invalid_value"
        )
    defaults = model.spec.sampling
    room = model.engine.capacity - num_prompt_tokens
    asked = wire.max_completion_tokens or wire.max_tokens or room
    seed = secrets.randbits(63) if wire.seed is None else wire.seed & _SEED_MASK
    stop_ids = frozenset() if wire.ignore_eos else frozenset(model.spec.eos_token_ids)
    bias = parse_logit_bias(wire.logit_bias or {}, model.tokenizer.vocab_size)
    top_k = wire.top_k if wire.top_k is not None else defaults.top_k or 0
    return [
        SamplingParams(
            temperature=_first(wire.temperature, defaults.temperature, 1.0),
            top_p=_first(wire.top_p, defaults.top_p, 1.0),
            top_k=max(0, top_k),
            min_p=_first(wire.min_p, None, 0.0),
            seed=(seed + i * _SEED_STEP) & _SEED_MASK,
            max_tokens=min(asked, room),
            stop_token_ids=stop_ids,
            presence_penalty=wire.presence_penalty,
            frequency_penalty=wire.frequency_penalty,
            repetition_penalty=wire.repetition_penalty,
            logit_bias=bias,
            num_logprobs=(wire.top_logprobs or 0) if wire.logprobs else None,
        )
        for i in range(wire.n)
    ]


def parse_logit_bias(raw: Mapping[str, float], vocab_size: int) -> dict[int, float]:
    """Token ids, which JSON can only write as strings, to biases.

    Raises:
        InvalidRequestError: a key is not the id of a token.
    """
    bias = {}
    for key, value in raw.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocab_size):
            raise InvalidRequestError(
                f"Invalid 'logit_bias': {key[:40]!r} is not a token id of this model.", param="logit_bias"
            )
        bias[int(key)] = value
    return bias


def _first(asked: float | None, default: float | None, otherwise: float) -> float:
    if asked is not None:
        return asked
    return default if default is not None else otherwise
