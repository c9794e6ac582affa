"""The answers of POST /v1/completions (CreateCompletionResponse, which is also the form of a chunk)."""

from __future__ import annotations

from typing import Literal, NotRequired

from appliance.server.http.wire import Answer
from appliance.server.v1.choice import TextFinishReason
from appliance.server.v1.response import CompletionUsage, ExtraTimings


class CompletionLogprobs(Answer):
    """The completion token by token; nothing is known of how likely the first token of a prompt was."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Answer):
    """One completion."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: TextFinishReason


class Completion(Answer):
    """A whole answer."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: CompletionUsage
    timings: NotRequired[ExtraTimings]


class CompletionChunkChoice(Answer):
    """A step of one completion."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: TextFinishReason | None


class CompletionChunk(Answer):
    """One event of a stream; the last one before the end has no choices if usage was asked for."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChunkChoice]
    usage: NotRequired[CompletionUsage | None]
    timings: NotRequired[ExtraTimings]
