"""Models of what crosses the wire: requests are validated, answers are only described.

A pydantic error becomes OpenAI's 400 with the name of the field.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, model_validator, with_config
from pydantic_core import ErrorDetails
from typing_extensions import TypedDict

from appliance.errors import InvalidRequestError

_CODES = {"missing": "missing_required_parameter", "value_error": "invalid_value", "literal_error": "invalid_value"}
_UNION_TAGS = frozenset({"str", "int", "float", "bool", "dict", "list"})
_EXPECTED = {
    "string_type": "a string",
    "bool_type": "a boolean",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
}
_GOT = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    list: "an array",
    dict: "an object",
}

EXTENSION: dict[str, JsonValue] = {"x-lantern-extension": True}
"""Marks a field in /openapi.json that OpenAI does not have."""


class Wire(BaseModel):
    """Base of what clients send: no coercion, unknown fields ignored, a null is an absent field."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=(), frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


@with_config(ConfigDict(strict=True, extra="forbid"))
class Answer(TypedDict):
    """Base of every JSON object that is sent: handlers build it as a dict, and /openapi.json describes it."""


M = TypeVar("M", bound=Wire)


def parse_as(model: type[M], value: object) -> M:
    """Validate a JSON value.

    Raises:
        InvalidRequestError: naming the first field that is wrong, in the form `messages[0].content`.
    """
    if not isinstance(value, dict):
        raise InvalidRequestError("The request body must be a JSON object.", code="invalid_type")
    try:
        return model.model_validate(value)
    except ValidationError as err:
        raise _translate(err.errors(include_url=False)) from err


def missing_parameter(param: str) -> InvalidRequestError:
    """Return the refusal of a request without a field that it needs."""
    return InvalidRequestError(
        f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
    )


def _translate(errors: list[ErrorDetails]) -> InvalidRequestError:
    first = max(errors, key=_depth)
    param = param_of(first["loc"])
    kind = first["type"]
    if kind == "missing":
        return missing_parameter(param)
    if kind in _EXPECTED:
        got = _GOT.get(type(first["input"]), "null")
        message = f"Invalid type for '{param}': expected {_EXPECTED[kind]}, but got {got} instead."
        return InvalidRequestError(message, param=param, code="invalid_type")
    code = _CODES.get(kind) or ("invalid_type" if kind.endswith("_type") else "invalid_value")
    message = str(first["msg"]).removeprefix("Value error, ")
    return InvalidRequestError(f"Invalid '{param}': {message[0].lower()}{message[1:]}.", param=param, code=code)


def _depth(error: ErrorDetails) -> int:
    """Rank a union's errors: the one that came furthest tells most."""
    return len(error["loc"])


def param_of(loc: tuple[int | str, ...]) -> str:
    """Return a pydantic location as OpenAI writes it, without the names of union members, such as our classes."""
    param = ""
    for part in loc:
        if isinstance(part, int):
            param += f"[{part}]"
        elif part not in _UNION_TAGS and not part[:1].isupper() and not any(mark in part for mark in "[(-"):
            param += f".{part}" if param else part
    return param
