"""The answers of POST /v1/chat/completions (CreateChatCompletionResponse and its chunk)."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field, WithJsonSchema

from appliance.server.http.wire import EXTENSION, Answer
from appliance.server.v1.response import CompletionUsage, ExtraProgress, ExtraTimings, QueuePosition

ChatFinishReason = Literal["stop", "length", "tool_calls", "function_call"]
Reasoning = Annotated[str, Field(json_schema_extra=EXTENSION)]
NoAnnotations = Annotated[list[str], Field(max_length=0), WithJsonSchema({"type": "array", "maxItems": 0})]


class TopLogprob(Answer):
    """A token that might have been sampled."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of the completion."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """The completion token by token."""

    content: list[TokenLogprob]
    refusal: None


class CalledFunction(Answer):
    """The function of a call; `arguments` is JSON text."""

    name: str
    arguments: str


class MessageToolCall(Answer):
    """A call that the model requests."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(Answer):
    """The message of the model."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: NoAnnotations
    tool_calls: NotRequired[list[MessageToolCall]]
    function_call: NotRequired[CalledFunction]
    reasoning_content: NotRequired[Reasoning]


class ChatChoice(Answer):
    """One of the `n` choices."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason


class ChatCompletion(Answer):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: Literal["default"]
    choices: list[ChatChoice]
    usage: CompletionUsage
    timings: NotRequired[ExtraTimings]


class FunctionDelta(Answer):
    """The name of a function first, then the text of its arguments bit by bit."""

    name: NotRequired[str]
    arguments: NotRequired[str]


class ToolCallDelta(Answer):
    """A step of the call at this index."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class ChatDelta(Answer):
    """A step of the message."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str | None]
    refusal: NotRequired[None]
    tool_calls: NotRequired[list[ToolCallDelta]]
    function_call: NotRequired[FunctionDelta]
    reasoning_content: NotRequired[Reasoning]


class ChatChunkChoice(Answer):
    """A step of one choice."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason | None


class ChatCompletionChunk(Answer):
    """One event of a stream; the last one before the end has no choices if usage was asked for."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: Literal["default"]
    choices: list[ChatChunkChoice]
    usage: NotRequired[CompletionUsage | None]
    timings: NotRequired[ExtraTimings]
    queue_position: NotRequired[QueuePosition]
    prompt_progress: NotRequired[ExtraProgress]
