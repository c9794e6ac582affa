"""The sampling fields of requests, and SamplingParams from them and the model's own defaults."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, WithJsonSchema, field_validator

from appliance.engine.types import SamplingParams
from appliance.errors import InvalidRequestError
from appliance.models import ChatModel
from appliance.server.http.wire import EXTENSION, Wire

MAX_CHOICES = 128
MAX_STOPS = 16

Penalty = Annotated[float, Field(ge=-2, le=2)]
ModelId = Annotated[str, Field(min_length=1, max_length=256)]
Stop = Annotated[
    str | list[str],
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": MAX_STOPS},
            ]
        }
    ),
]
ThinkingTokenBudget = Annotated[
    int,
    Field(
        ge=-1,
        description="The most tokens of reasoning; then it is closed, and the answer follows. 0: none; -1: no limit.",
    ),
]
LogitBias = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100)]],
    Field(json_schema_extra={"propertyNames": {"pattern": "^[0-9]+$"}}),
]
ReturnProgress = Annotated[
    bool,
    Field(
        description="A stream tells the place in the queue (`queue_position`, 1 is the next) and, while the prompt is "
        "read, its tokens (`prompt_progress`). No effect on other answers.",
        json_schema_extra=EXTENSION,
    ),
]

_COLDEST = 1e-4  # below this the logits divided by the temperature leave float32, and the choice is greedy anyway
_DEFAULT_PRESENCE, _DEFAULT_FREQUENCY = 0.5, 0.3
_SMALL_BYTES = 600 << 20  # about a billion weights of four bits
_SEED_MASK = (1 << 64) - 1
_SEED_STEP = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: seeds of neighbouring choices share nothing


class StreamOptions(Wire):
    """The contents of a stream besides text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class SamplingFields(Wire):
    """The fields that all requests for generated text share."""

    model: ModelId
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = Field(default=None, json_schema_extra=EXTENSION)
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, json_schema_extra=EXTENSION)
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=10, json_schema_extra=EXTENSION)
    stop: Stop | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    seed: int | None = None
    logit_bias: LogitBias | None = None
    user: str | None = None
    ignore_eos: bool = Field(default=False, json_schema_extra=EXTENSION)

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
    def wants_usage(self) -> bool:
        """Return True if a stream ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def stops(self) -> tuple[str, ...]:
        """Return the stop strings as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


def sampling_params(
    wire: SamplingFields,
    model: ChatModel,
    num_prompt_tokens: int,
    max_tokens: int | None,
    num_logprobs: int | None,
    *,
    num_choices: int | None = None,
    is_constrained: bool = False,
) -> list[SamplingParams]:
    """Return one SamplingParams for each choice, `n` by default; the first has the request's own seed.

    Args:
        wire: the request.
        model: the model, with defaults for fields that the request leaves out.
        num_prompt_tokens: tokens of the context that a completion cannot have.
        max_tokens: the limit of the request.
        num_logprobs: alternatives to report; None without log probabilities.
        num_choices: completions to sample.
        is_constrained: a grammar allows JSON only.

    Raises:
        InvalidRequestError: a bias for an unknown token, or stream options without a stream.
    """
    _check_stream_options(wire)
    defaults = model.spec.sampling
    temperature = _first(wire.temperature, defaults.temperature, 1.0)
    presence, frequency = _penalties(wire, needs_default_penalties=is_constrained and _is_small(model))
    room = model.engine.capacity - num_prompt_tokens
    seed = secrets.randbits(63) if wire.seed is None else wire.seed & _SEED_MASK
    bias = parse_logit_bias(wire.logit_bias or {}, model.tokenizer.vocab_size)
    top_k = wire.top_k if wire.top_k is not None else defaults.top_k or 0
    return [
        SamplingParams(
            temperature=temperature if temperature >= _COLDEST else 0.0,
            top_p=_first(wire.top_p, defaults.top_p, 1.0),
            top_k=max(0, top_k),
            min_p=_first(wire.min_p, None, 0.0),
            seed=(seed + i * _SEED_STEP) & _SEED_MASK,
            max_tokens=room if max_tokens is None else min(max_tokens, room),
            stop_token_ids=frozenset() if wire.ignore_eos else frozenset(model.spec.eos_token_ids),
            presence_penalty=presence,
            frequency_penalty=frequency,
            repetition_penalty=wire.repetition_penalty,
            logit_bias=bias,
            num_logprobs=num_logprobs,
        )
        for i in range(num_choices or wire.n)
    ]


def _check_stream_options(wire: SamplingFields) -> None:
    if wire.stream_options is not None and not wire.stream:
        raise InvalidRequestError(
            "Invalid 'stream_options': it is only allowed when 'stream' is true.", param="stream_options"
        )


def _penalties(wire: SamplingFields, *, needs_default_penalties: bool) -> tuple[float, float]:
    """Return the presence and frequency penalties; small models in a grammar need some to end their loops.

    Free text ends a loop with the end of the answer; in a JSON string that end is forbidden. Of 14 greedy answers of a
    135M model under schemas, 3 ended within 500 tokens without penalties, and all 14 with these.
    """
    if wire.presence_penalty is None and wire.frequency_penalty is None and needs_default_penalties:
        return _DEFAULT_PRESENCE, _DEFAULT_FREQUENCY
    return wire.presence_penalty or 0.0, wire.frequency_penalty or 0.0


def _is_small(model: ChatModel) -> bool:
    return model.bundle.manifest.size_bytes < _SMALL_BYTES


def check_choices(num_choices: int, most: int, param: str) -> None:
    """Refuse more choices than this server makes for one request.

    Raises:
        InvalidRequestError: naming the field.
    """
    if num_choices > most:
        raise InvalidRequestError(f"Invalid '{param}': this server makes at most {most} choices.", param=param)


def parse_logit_bias(raw: Mapping[str, float], vocab_size: int) -> dict[int, float]:
    """Parse biases by token id, which JSON can only write as a string.

    Raises:
        InvalidRequestError: a key is no token id.
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
