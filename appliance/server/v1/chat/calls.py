"""The grammars of calls: each tool is held to its schema as far as it can be, and never further than it asked.

OpenAI limits the schemas of strict tools only. A tool that is not strict takes calls whatever its schema says: without
the keywords that no grammar follows, or else with any object as arguments; the log names it then.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from appliance.engine.runtime.grammar import MAX_SCHEMA_BYTES, GrammarCompiler
from appliance.errors import InvalidRequestError
from appliance.server.v1 import schema as json_schema
from appliance.server.v1.chat.closed_schema import closed
from appliance.server.v1.chat.wire import Function

_LOGGER = logging.getLogger(__name__)

_NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_ANY_ARGUMENTS: dict[str, Any] = {"type": "object"}
_LENIENT = {"lenient": True, "coerce_one_of": True}


@dataclass(frozen=True, slots=True)
class CallForm:
    """The form of a tool's calls: the schema of its arguments, read with these options of llguidance."""

    name: str
    arguments: dict[str, Any]
    options: dict[str, Any]

    def schema(self, **options: object) -> str:
        """Return the schema of one call in the generic form, for a rule of a Lark grammar."""
        place = "#/$defs/arguments"
        schema = {
            "type": "object",
            "properties": {"name": {"const": self.name}, "arguments": {"$ref": place}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
            "$defs": {"arguments": json_schema.moved(self.arguments, place)},
        }
        return json.dumps({"x-guidance": {**self.options, **options}, **schema})

    @property
    def tagged(self) -> dict[str, Any]:
        """Return the schema of the arguments alone."""
        return {**self.arguments, "x-guidance": self.options} if self.options else self.arguments


def call_forms(functions: Sequence[Function], grammars: GrammarCompiler) -> list[CallForm]:
    """Return the form of each tool's calls; compiles, so never on the event loop.

    Raises:
        InvalidRequestError: the schema of a strict tool cannot be enforced; the message names the tool and the part.
    """
    forms = [_form(function, i, grammars) for i, function in enumerate(functions)]
    num_bytes = [len(json.dumps(form.arguments)) for form in forms]
    for i in sorted(range(len(forms)), key=num_bytes.__getitem__, reverse=True):
        if sum(num_bytes) <= MAX_SCHEMA_BYTES:
            return forms
        if not functions[i].strict:
            reason = f"the schemas of all tools have {sum(num_bytes)} bytes, and at most {MAX_SCHEMA_BYTES} are taken"
            forms[i], num_bytes[i] = _any_arguments(forms[i].name, reason), 0
    if sum(num_bytes) <= MAX_SCHEMA_BYTES:
        return forms
    raise InvalidRequestError(
        f"Invalid 'tools': the schemas of the strict tools have {sum(num_bytes)} bytes; at most {MAX_SCHEMA_BYTES} "
        "are taken.",
        param="tools",
    )


def rules(forms: Sequence[CallForm], name: str, **options: object) -> str:
    """Return the rules of a Lark grammar by which `name` is a call of one of the tools."""
    names = [f"{name}_{i}" for i in range(len(forms))]
    lines = [f"{rule}: %json {form.schema(**options)}" for rule, form in zip(names, forms, strict=True)]
    return "\n".join([f"{name}: {' | '.join(names)}", *lines])


def _form(function: Function, index: int, grammars: GrammarCompiler) -> CallForm:
    """Return the tightest form of a tool's calls that can be enforced."""
    if function.parameters is None:
        return CallForm(function.name, _NO_ARGUMENTS, {})
    if not _is_object(function.parameters):
        if function.strict:
            raise _refused(function, index, "#/type", "the type of the parameters is not 'object'")
        return _any_arguments(function.name, "the type of its parameters is not 'object'")
    form = CallForm(function.name, {**closed(function.parameters), "type": "object"}, {})
    reason = grammars.refusal(form.schema())
    if reason is None:
        return form
    if function.strict:
        path, reason = json_schema.fault(form.arguments, lambda part: grammars.refusal(json.dumps(part)))
        raise _refused(function, index, path, reason)
    lenient = replace(form, arguments=json_schema.without_look_around(form.arguments), options=_LENIENT)
    if grammars.refusal(lenient.schema()) is not None:
        return _any_arguments(function.name, reason)
    _LOGGER.info("the calls of tool %r are held to a part of its schema only: %s", function.name, reason)
    return lenient


def _is_object(parameters: dict[str, Any]) -> bool:
    kind = parameters.get("type", "object")
    return kind == "object" or (isinstance(kind, list) and "object" in kind)


def _any_arguments(name: str, reason: str) -> CallForm:
    _LOGGER.info("the calls of tool %r are held to no schema, their arguments are any object: %s", name, reason)
    return CallForm(name, _ANY_ARGUMENTS, {})


def _refused(function: Function, index: int, path: str, reason: str) -> InvalidRequestError:
    param = f"tools[{index}].function.parameters"
    return InvalidRequestError(
        f"Invalid '{param}': the tool '{function.name}' is strict, and its schema cannot be enforced at '{path}': "
        f"{reason}.",
        param=param,
        code="invalid_json_schema",
    )
