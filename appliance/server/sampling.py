"""What requests say about sampling, and how it becomes SamplingParams with the model's own defaults below."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, field_validator

from appliance.engine.types import SamplingParams
from appliance.errors import InvalidRequestError
from appliance.models import ChatModel
from appliance.server.parse import Wire

MAX_CHOICES = 8
MAX_STOPS = 16

Penalty = Annotated[float, Field(ge=-2, le=2)]

_SEED_MASK = (1 << 64) - 1
_SEED_STEP = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: seeds of neighbouring choices share nothing


class StreamOptions(Wire):
    """What a stream carries besides text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class SamplingFields(Wire):
    """The fields that every request for text shares."""

    model: Annotated[str, Field(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    stop: str | list[str] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    user: str | None = None
    ignore_eos: bool = False

    @field_validator("stop")
    @classmethod
    def _stops_are_not_empty(cls, stop: str | list[str] | None) -> str | list[str] | None:
        strings = [stop] if isinstance(stop, str) else stop or []
        if any(not s for s in strings):
            raise ValueError("a stop string must not be empty")
        if len(strings) > MAX_STOPS:
            raise ValueError(f"at most {MAX_STOPS} stop strings are taken")
        return stop

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


def sampling_params(
    wire: SamplingFields,
    model: ChatModel,
    num_prompt_tokens: int,
    max_tokens: int | None,
    num_logprobs: int | None,
) -> list[SamplingParams]:
    """One SamplingParams for each of the `n` choices; the first has the request's own seed.

    Raises:
        InvalidRequestError: a bias for something that is not a token.
    """
    defaults = model.spec.sampling
    room = model.engine.capacity - num_prompt_tokens
    seed = secrets.randbits(63) if wire.seed is None else wire.seed & _SEED_MASK
    bias = parse_logit_bias(wire.logit_bias or {}, model.tokenizer.vocab_size)
    top_k = wire.top_k if wire.top_k is not None else defaults.top_k or 0
    return [
        SamplingParams(
            temperature=_first(wire.temperature, defaults.temperature, 1.0),
            top_p=_first(wire.top_p, defaults.top_p, 1.0),
            top_k=max(0, top_k),
            min_p=_first(wire.min_p, None, 0.0),
            seed=(seed + i * _SEED_STEP) & _SEED_MASK,
            max_tokens=room if max_tokens is None else min(max_tokens, room),
            stop_token_ids=frozenset() if wire.ignore_eos else frozenset(model.spec.eos_token_ids),
            presence_penalty=wire.presence_penalty,
            frequency_penalty=wire.frequency_penalty,
            repetition_penalty=wire.repetition_penalty,
            logit_bias=bias,
            num_logprobs=num_logprobs,
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
