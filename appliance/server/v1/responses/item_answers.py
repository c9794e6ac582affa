"""The items of /v1/responses, as they are answered: messages, reasoning, calls and their outputs."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field

from appliance.server.http.wire import EXTENSION, Answer
from appliance.server.v1.chat.response import NoAnnotations, TokenLogprob

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(Answer):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: NoAnnotations
    logprobs: list[TokenLogprob]


class OutputMessageItem(Answer):
    """A message of the model."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: ItemStatus
    content: list[OutputText]


class FunctionCallItem(Answer):
    """A call that the model requests; `arguments` is JSON text."""

    id: str
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


class ReasoningText(Answer):
    """Reasoning as the model wrote it."""

    type: Literal["reasoning_text"]
    text: str


class SummaryText(Answer):
    """Reasoning in the place of a summary."""

    type: Literal["summary_text"]
    text: str


class ReasoningOutputItem(Answer):
    """The reasoning of the model, in `summary` if one was asked for, else in `content`."""

    id: str
    type: Literal["reasoning"]
    summary: list[SummaryText]
    content: NotRequired[list[ReasoningText]]
    encrypted_content: NotRequired[str]
    status: ItemStatus


class CustomCallItem(Answer):
    """A call of a custom tool; `input` is plain text."""

    id: str
    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    input: str
    status: Annotated[ItemStatus, Field(json_schema_extra=EXTENSION)]


OutputItem = OutputMessageItem | FunctionCallItem | CustomCallItem | ReasoningOutputItem


class InputTextPart(Answer):
    """The text of an input message."""

    type: Literal["input_text"]
    text: str


class InputMessageItem(Answer):
    """A message of the request."""

    id: str
    type: Literal["message"]
    role: Literal["user", "system", "developer"]
    status: Literal["completed"]
    content: list[InputTextPart]


class FunctionOutputItem(Answer):
    """The result of a call."""

    id: str
    type: Literal["function_call_output"]
    call_id: str
    output: str
    status: Literal["completed"]


class CustomOutputItem(Answer):
    """The result of a call of a custom tool."""

    id: str
    type: Literal["custom_tool_call_output"]
    call_id: str
    output: str
    status: Annotated[Literal["completed"], Field(json_schema_extra=EXTENSION)]


Item = (
    InputMessageItem
    | FunctionOutputItem
    | CustomOutputItem
    | OutputMessageItem
    | FunctionCallItem
    | CustomCallItem
    | ReasoningOutputItem
)
