"""The answers of /v1/responses: a response, its events, lists of items. `output_text` is of the SDKs and not sent."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field

from appliance.server.http.wire import EXTENSION, Answer
from appliance.server.v1.chat.response import TokenLogprob
from appliance.server.v1.response import ExtraProgress, ExtraTimings, QueuePosition
from appliance.server.v1.responses.item_answers import Item, OutputItem, OutputText, ReasoningText, SummaryText

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class InputTokensDetails(Answer):
    """Of the prompt's tokens, those that the prefix cache saved."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(Answer):
    """Of the answer's tokens, those that are reasoning."""

    reasoning_tokens: int


class ResponseUsage(Answer):
    """Tokens of the prompt, chain included, and of the answer."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(Answer):
    """The limit that has ended an answer."""

    reason: Literal["max_output_tokens"]


class ResponseFailure(Answer):
    """The failure of a response whose stream had begun."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str
    type: Annotated[str, Field(json_schema_extra=EXTENSION)]
    param: Annotated[str | None, Field(json_schema_extra=EXTENSION)]


class OfferedFunction(Answer):
    """A function that was offered to the model."""

    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None


class CustomFormatEcho(Answer):
    """The form of a custom tool's input."""

    type: Literal["text", "grammar"]
    syntax: NotRequired[Literal["lark", "regex"]]
    definition: NotRequired[str]


class OfferedCustom(Answer):
    """A custom tool that was offered to the model."""

    type: Literal["custom"]
    name: str
    description: NotRequired[str]
    format: CustomFormatEcho


class TextFormatEcho(Answer):
    """The form that was asked for."""

    type: Literal["text", "json_object", "json_schema"]
    name: NotRequired[str]
    description: NotRequired[str]
    schema: NotRequired[dict[str, Any]]
    strict: NotRequired[bool]


class ToolChoiceEcho(Answer):
    """The choice that was asked for."""

    type: str
    name: NotRequired[str]
    mode: NotRequired[str]
    tools: NotRequired[list[dict[str, Any]]]


class TextEcho(Answer):
    """The form of the text."""

    format: TextFormatEcho
    verbosity: NotRequired[str]


class ReasoningEcho(Answer):
    """The reasoning that was asked for."""

    effort: str | None
    summary: str | None


class Transformation(Answer):
    """An item that was left out of the prompt."""

    id: str
    type: str
    action: Literal["removed"]
    reason: Literal["model_mismatch"]


class ConversationRef(Answer):
    """A conversation, by its id."""

    id: str


class Response(Answer):
    """A whole response; every key but the last ones is always there."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Status
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: ReasoningEcho
    background: bool
    store: Annotated[bool, Field(json_schema_extra=EXTENSION)]
    temperature: float
    top_p: float
    presence_penalty: Annotated[float, Field(json_schema_extra=EXTENSION)]
    frequency_penalty: Annotated[float, Field(json_schema_extra=EXTENSION)]
    top_logprobs: int
    text: TextEcho
    tools: list[OfferedFunction | OfferedCustom]
    tool_choice: str | ToolChoiceEcho
    truncation: Literal["auto", "disabled"]
    metadata: dict[str, str]
    service_tier: Literal["default"]
    prompt_cache_key: str | None
    safety_identifier: str | None
    usage: ResponseUsage | None
    user: NotRequired[str]
    timings: NotRequired[ExtraTimings]
    conversation: NotRequired[ConversationRef]
    input_transformations: NotRequired[Annotated[list[Transformation], Field(json_schema_extra=EXTENSION)]]
    messages_left_out: NotRequired[Annotated[int, Field(ge=1, json_schema_extra=EXTENSION)]]


class ResponseEvent(Answer):
    """An event of a stream; its type decides which of the fields it has."""

    type: str
    sequence_number: int
    response: NotRequired[Response]
    output_index: NotRequired[int]
    item: NotRequired[OutputItem]
    item_id: NotRequired[str]
    content_index: NotRequired[int]
    summary_index: NotRequired[int]
    part: NotRequired[OutputText | ReasoningText | SummaryText]
    delta: NotRequired[str]
    text: NotRequired[str]
    name: NotRequired[str]
    arguments: NotRequired[str]
    input: NotRequired[str]
    logprobs: NotRequired[list[TokenLogprob]]
    obfuscation: NotRequired[str]
    queue_position: NotRequired[QueuePosition]
    prompt_progress: NotRequired[ExtraProgress]


class DeletedResponse(Answer):
    """A response that is no longer there."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputItemList(Answer):
    """A page of the items that an answer was made from."""

    object: Literal["list"]
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokens(Answer):
    """The size of a prompt."""

    object: Literal["response.input_tokens"]
    input_tokens: int
