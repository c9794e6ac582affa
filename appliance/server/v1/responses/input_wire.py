"""Input items as clients write them: clients return what they got, so an item is read leniently, its content strictly.

Unknown fields, nulls and foreign ids pass; an item of another type is refused by name.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Discriminator, Field, JsonValue, Tag, WithJsonSchema

from appliance.server.http.wire import Wire

MAX_PARTS = 2048

_CALL_ID = Annotated[str, Field(min_length=1, max_length=256)]


_TEXT_KINDS: list[JsonValue] = ["input_text", "output_text", "text"]
_PART_FORMS: list[JsonValue] = [
    {"properties": {"type": {"enum": _TEXT_KINDS}, "text": {"type": "string"}}, "required": ["text"]},
    {"properties": {"type": {"enum": ["refusal"]}, "refusal": {"type": "string"}}, "required": ["refusal"]},
]


class InputText(Wire):
    """One part of a result or of reasoning; parts of a kind other than text are refused later, by name."""

    model_config = ConfigDict(json_schema_extra={"required": ["type", "text"]})

    type: Annotated[str, WithJsonSchema({"type": "string", "enum": _TEXT_KINDS})]
    text: Annotated[str | None, WithJsonSchema({"type": "string"})] = None


class InputPart(InputText):
    """One part of a message, which may be a refusal."""

    model_config = ConfigDict(json_schema_extra={"required": ["type"], "anyOf": _PART_FORMS})

    type: Annotated[str, WithJsonSchema({"type": "string", "enum": [*_TEXT_KINDS, "refusal"]})]
    refusal: str | None = None


Content = str | Annotated[list[InputPart], Field(max_length=MAX_PARTS)]
Result = str | Annotated[list[InputText], Field(max_length=MAX_PARTS)]


class InputMessage(Wire):
    """A message, with or without its type."""

    type: Literal["message"] = "message"
    id: str | None = None
    role: Literal["user", "system", "developer", "assistant"]
    content: Content


class InputCall(Wire):
    """A call that the model made; `arguments` is JSON text."""

    type: Literal["function_call"]
    id: str | None = None
    call_id: _CALL_ID
    name: Annotated[str, Field(min_length=1)]
    arguments: str
    status: str | None = None


class InputCallOutput(Wire):
    """The result of a call."""

    type: Literal["function_call_output"]
    id: str | None = None
    call_id: _CALL_ID
    output: Result


class InputCustomCall(Wire):
    """A call of a custom tool that the model made."""

    type: Literal["custom_tool_call"]
    id: str | None = None
    call_id: _CALL_ID
    name: Annotated[str, Field(min_length=1)]
    input: str
    status: str | None = None


class InputCustomOutput(Wire):
    """The result of a call of a custom tool."""

    type: Literal["custom_tool_call_output"]
    id: str | None = None
    call_id: _CALL_ID
    output: Result


class InputReasoning(Wire):
    """The reasoning of an earlier turn, readable or sealed."""

    type: Literal["reasoning"]
    id: str | None = None
    content: list[InputText] | None = None
    summary: list[InputText] | None = None
    encrypted_content: str | None = None


class InputReference(Wire):
    """A stored item, by its id."""

    type: Literal["item_reference"] = "item_reference"
    id: str


class InputOther(Wire):
    """An item of a type that this server does not have; /openapi.json says that none is taken."""

    type: Annotated[str, WithJsonSchema({"not": {}})]


def _kind(item: object) -> str:
    """Return the tag of an item; capitals keep it out of the names of fields in errors."""
    if not isinstance(item, dict):
        return type(item).__name__ if isinstance(item, Wire) else "InputMessage"
    kind = item.get("type")
    if kind is None:
        return "InputReference" if "id" in item and item.get("role") is None else "InputMessage"
    return _TAGS.get(kind, "InputOther") if isinstance(kind, str) else "InputOther"


_TAGS = {
    "message": "InputMessage",
    "function_call": "InputCall",
    "function_call_output": "InputCallOutput",
    "custom_tool_call": "InputCustomCall",
    "custom_tool_call_output": "InputCustomOutput",
    "reasoning": "InputReasoning",
    "item_reference": "InputReference",
}

InputItem = Annotated[
    Annotated[InputMessage, Tag("InputMessage")]
    | Annotated[InputCall, Tag("InputCall")]
    | Annotated[InputCallOutput, Tag("InputCallOutput")]
    | Annotated[InputCustomCall, Tag("InputCustomCall")]
    | Annotated[InputCustomOutput, Tag("InputCustomOutput")]
    | Annotated[InputReasoning, Tag("InputReasoning")]
    | Annotated[InputReference, Tag("InputReference")]
    | Annotated[InputOther, Tag("InputOther")],
    Discriminator(_kind),
]
