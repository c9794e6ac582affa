"""POST /v1/chat/completions as clients write it (OpenAI's specification 2.3.0, CreateChatCompletionRequest)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from appliance.server.parse import Wire
from appliance.server.sampling import SamplingFields

MAX_TOOLS = 128

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class ContentPart(Wire):
    """One part of a message; parts of a kind other than text are refused later, by name."""

    type: str
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
    content: str | list[ContentPart] | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCall | None = None


class Function(Wire):
    """What a tool does and takes; `parameters` is a JSON Schema."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False


class Tool(Wire):
    """A tool that the model may call; kinds other than function are refused later, by name."""

    type: str
    function: Function | None = None


class NamedFunction(Wire):
    """A function, by its name."""

    name: str


class AllowedTools(Wire):
    """A part of the tools, and whether one of them must be called."""

    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]] = Field(min_length=1)


class NamedToolChoice(Wire):
    """A tool that must be called, or the tools that may be."""

    type: Literal["function", "allowed_tools", "custom"]
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
    """The whole request. Fields that OpenAI has and a local server has no use for are ignored, as unknown ones are."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool = True
    functions: list[Function] | None = Field(default=None, max_length=MAX_TOOLS)
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    reasoning_effort: str | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    moderation: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
