"""POST /v1/responses as clients write it (OpenAI's specification 2.3.0, CreateResponse)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, WithJsonSchema, field_validator

from appliance.server.http.wire import EXTENSION, Wire
from appliance.server.v1.responses.input_wire import InputItem
from appliance.server.v1.sampling import LogitBias, ModelId, Penalty, ReturnProgress, Stop, ThinkingTokenBudget

MAX_ITEMS = 2048
MAX_TOOLS = 128
_MAX_PAIRS, _MAX_NAME, _MAX_VALUE = 16, 64, 512

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
SummaryForm = Literal["auto", "concise", "detailed"]
Unsupported = Annotated[
    Any, WithJsonSchema({"type": "null", "description": "Refused: this server has no such function."})
]
Included = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]


METADATA_SCHEMA: dict[str, JsonValue] = {
    "maxProperties": _MAX_PAIRS,
    "propertyNames": {"maxLength": _MAX_NAME},
    "additionalProperties": {"type": "string", "maxLength": _MAX_VALUE},
}


def checked_metadata(metadata: dict[str, str] | None) -> dict[str, str] | None:
    """Return the metadata if it is as small as OpenAI's.

    Raises:
        ValueError: it is not.
    """
    if len(metadata or ()) > _MAX_PAIRS:
        raise ValueError(f"at most {_MAX_PAIRS} pairs are taken")
    for name, value in (metadata or {}).items():
        if len(name) > _MAX_NAME or len(value) > _MAX_VALUE:
            raise ValueError(f"names have at most {_MAX_NAME} characters and values {_MAX_VALUE}")
    return metadata


class CustomFormat(Wire):
    """The form of a custom tool's input."""

    type: Literal["text", "grammar"]
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None


class ResponseTool(Wire):
    """A tool; one of a type other than `function` or `custom` is not offered to the model."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    format: CustomFormat | None = None
    function: Unsupported = None


class ResponseToolChoice(Wire):
    """A function that must be called, or the functions that may be."""

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[dict[str, Any]] | None = None


class TextFormat(Wire):
    """The form of the answer's text."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")] | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextOptions(Wire):
    """The form and the length of the answer's text."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningOptions(Wire):
    """The amount of reasoning, and the place where it is shown."""

    effort: Effort | None = None
    summary: SummaryForm | None = None
    generate_summary: SummaryForm | None = None
    context: str | None = None
    mode: str | None = None


class ResponseStreamOptions(Wire):
    """The contents of a stream besides text."""

    include_obfuscation: bool = False


class ConversationId(Wire):
    """A conversation, by its id."""

    id: str


class PromptFields(Wire):
    """The fields that decide the prompt, which counting and creating share."""

    model: ModelId
    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_ITEMS)]
        | None
    ) = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[ResponseTool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | ResponseToolChoice | None = None
    parallel_tool_calls: bool = True
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    truncation: Literal["auto", "disabled"] = "disabled"
    conversation: str | ConversationId | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(default=None, json_schema_extra=EXTENSION)

    @property
    def conversation_id(self) -> str:
        """Return the id of the conversation; empty if there is none."""
        return self.conversation.id if isinstance(self.conversation, ConversationId) else self.conversation or ""


class InputTokensRequest(PromptFields):
    """A prompt to be counted."""


class ResponseRequest(PromptFields):
    """The whole request."""

    stream: bool = False
    stream_options: ResponseStreamOptions | None = None
    store: bool = True
    include: list[Included] | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    metadata: dict[str, str] | None = Field(default=None, json_schema_extra=METADATA_SCHEMA)
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    service_tier: str | None = None
    background: bool = False
    prompt: Unsupported = None
    context_management: Unsupported = None
    moderation: Unsupported = None
    presence_penalty: Penalty | None = Field(default=None, json_schema_extra=EXTENSION)
    frequency_penalty: Penalty | None = Field(default=None, json_schema_extra=EXTENSION)
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = Field(default=None, json_schema_extra=EXTENSION)
    stop: Stop | None = Field(default=None, json_schema_extra=EXTENSION)
    logit_bias: LogitBias | None = Field(default=None, json_schema_extra=EXTENSION)
    top_k: Annotated[int, Field(ge=-1)] | None = Field(default=None, json_schema_extra=EXTENSION)
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, json_schema_extra=EXTENSION)
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=10, json_schema_extra=EXTENSION)
    ignore_eos: bool = Field(default=False, json_schema_extra=EXTENSION)
    thinking_token_budget: ThinkingTokenBudget | None = Field(default=None, json_schema_extra=EXTENSION)
    return_progress: ReturnProgress = False

    @field_validator("metadata")
    @classmethod
    def _metadata_is_small(cls, metadata: dict[str, str] | None) -> dict[str, str] | None:
        return checked_metadata(metadata)

    def includes(self, what: Included) -> bool:
        """Return True if the request asks for an addition to the answer."""
        return what in (self.include or ())
