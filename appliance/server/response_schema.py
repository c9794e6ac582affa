"""What answers look like, for /openapi.json and for whoever checks real answers against it.

Answers are put together as plain JSON where they arise; nothing here is on the way of a request.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from appliance.server.parse import EXTENSION

Absent = SkipJsonSchema[None]  # the field is left out, and never null
ChatFinishReason = Literal["stop", "length", "tool_calls", "function_call"]


class Answer(BaseModel):
    """Base of what is sent: every field that can be there is declared."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())


class Error(Answer):
    """What went wrong, for a person and for a program."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Answer):
    """Every failure, before an answer or as the last event of a stream."""

    error: Error


class PromptTokensDetails(Answer):
    """Of the prompt's tokens, those that a kept prefix saved."""

    cached_tokens: int
    audio_tokens: int


class CompletionTokensDetails(Answer):
    """Of the answer's tokens, those that were thought and not said."""

    reasoning_tokens: int
    audio_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class CompletionUsage(Answer):
    """Tokens of the prompt, once, and of all choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class TopLogprob(Answer):
    """A token that might have come."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token that came."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """The answer token by token."""

    content: list[TokenLogprob]
    refusal: None


class CalledFunction(Answer):
    """`arguments` is JSON text."""

    name: str
    arguments: str


class MessageToolCall(Answer):
    """A call that the model wants made."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(Answer):
    """What the model said."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: Annotated[list[str], Field(max_length=0), WithJsonSchema({"type": "array", "maxItems": 0})]
    tool_calls: list[MessageToolCall] | Absent = None
    function_call: CalledFunction | Absent = None
    reasoning_content: str | Absent = Field(default=None, json_schema_extra=EXTENSION)


class ChatChoice(Answer):
    """One of the `n` answers."""

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
    choices: list[ChatChoice]
    usage: CompletionUsage
    service_tier: Literal["default"]


class FunctionDelta(Answer):
    """The name comes first, then the arguments' text bit by bit."""

    name: str | Absent = None
    arguments: str | Absent = None


class ToolCallDelta(Answer):
    """A step of the call at this index."""

    index: int
    id: str | Absent = None
    type: Literal["function"] | Absent = None
    function: FunctionDelta


class ChatDelta(Answer):
    """A step of the message."""

    role: Literal["assistant"] | Absent = None
    content: str | None = None
    refusal: None = None
    tool_calls: list[ToolCallDelta] | Absent = None
    function_call: FunctionDelta | Absent = None
    reasoning_content: str | Absent = Field(default=None, json_schema_extra=EXTENSION)


class ChatChunkChoice(Answer):
    """A step of one choice."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason | None


class ChatCompletionChunk(Answer):
    """One event of a stream; the last one before the end has no choices where usage was asked for."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: CompletionUsage | None = None
    service_tier: Literal["default"]


class CompletionLogprobs(Answer):
    """The continuation token by token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(Answer):
    """One continuation."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Answer):
    """Continuations."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: CompletionUsage


class CompletionChunkChoice(Answer):
    """A step of one continuation."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class CompletionChunk(Answer):
    """One event of a stream; the last one before the end has no choices where usage was asked for."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChunkChoice]
    usage: CompletionUsage | None = None


class Embedding(Answer):
    """A unit vector: numbers, or little-endian float32 in base64 where that was asked for."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Answer):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Answer):
    """One vector for each input, in order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class RankedDocument(Answer):
    """The text of a document, as it came."""

    text: str


class RankedResult(Answer):
    """How relevant a document is to the query, from 0 to 1; with `raw_scores` the model's own number."""

    index: int
    relevance_score: float
    document: RankedDocument | Absent = None


class RerankUsage(Answer):
    """Tokens of all pairs of the query and a document."""

    prompt_tokens: int
    total_tokens: int


class RerankResponse(Answer):
    """The documents from the most relevant to the least."""

    id: str
    object: Literal["list"]
    model: str
    results: list[RankedResult]
    usage: RerankUsage


class Model(Answer):
    """A model, or another name for one."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: Literal["decoder", "encoder", "reranker"] = Field(json_schema_extra=EXTENSION)


class ModelList(Answer):
    """Every id that a request may name."""

    object: Literal["list"]
    data: list[Model]


class Health(Answer):
    """Whether requests are taken, and what the device says about itself."""

    model_config = ConfigDict(extra="allow")

    status: Literal["starting", "unclaimed", "ok", "degraded", "draining", "safe"]
    version: str
