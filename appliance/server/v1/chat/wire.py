"""POST /v1/chat/completions as clients write it (OpenAI's specification 2.3.0, CreateChatCompletionRequest)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from appliance.server.http.wire import EXTENSION, Wire
from appliance.server.v1.sampling import ReturnProgress, SamplingFields, ThinkingTokenBudget

MAX_TOOLS = 128
MAX_MESSAGES = 2048
MAX_PARTS = 2048

Refused = Annotated[
    dict[str, Any] | None, WithJsonSchema({"type": "null", "description": "Refused: this server has no such function."})
]
Modalities = Annotated[
    list[Literal["text", "audio"]], WithJsonSchema({"type": "array", "items": {"type": "string", "enum": ["text"]}})
]
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class ContentPart(Wire):
    """One part of a message; parts of a kind other than text are refused later, by name."""

    type: Annotated[str, WithJsonSchema({"type": "string", "enum": ["text", "refusal"]})]
    text: str | None = None
    refusal: str | None = None


class FunctionCall(Wire):
    """A call that the model made in an earlier turn; `arguments` is JSON text."""

    name: str
    arguments: str = ""


class ToolCall(Wire):
    """A call that the model made in an earlier turn."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Wire):
    """One turn of the conversation."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[ContentPart], Field(min_length=1, max_length=MAX_PARTS)] | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = Field(default=None, json_schema_extra=EXTENSION)
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCall | None = None


class LegacyFunction(Wire):
    """The description of a function; `parameters` is a JSON Schema."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Function(LegacyFunction):
    """A function as a tool, which can be held to its schema."""

    strict: bool = False


class Tool(Wire):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(Wire):
    """A function, by its name."""

    name: str


class AllowedTools(Wire):
    """A part of the tools; the mode decides if one of them must be called."""

    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]] = Field(min_length=1)


class NamedToolChoice(Wire):
    """A tool that must be called, or the tools that may be."""

    type: Literal["function", "allowed_tools"]
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None


class JsonSchema(Wire):
    """A named JSON Schema that the answer must satisfy."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool = False


class ResponseFormat(Wire):
    """The form of the answer's text."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(SamplingFields):
    """The whole request."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool = True
    functions: list[LegacyFunction] | None = Field(default=None, max_length=MAX_TOOLS)
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    thinking_token_budget: ThinkingTokenBudget | None = Field(default=None, json_schema_extra=EXTENSION)
    modalities: Modalities | None = None
    audio: Refused = None
    web_search_options: Refused = None
    moderation: Refused = None
    chat_template_kwargs: dict[str, Any] | None = Field(default=None, json_schema_extra=EXTENSION)
    return_progress: ReturnProgress = False

    # Accepted and not used: a local server has nothing to bill, to store, to tier or to predict.
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    prediction: dict[str, Any] | None = None

    @property
    def reasoning_limit(self) -> int | None:
        """Return the most tokens of reasoning; None without a limit."""
        budget = self.thinking_token_budget
        return None if budget is None or budget < 0 else budget
