"""Custom tools: their input is plain text, free or by a grammar."""

from __future__ import annotations

import re

from appliance.engine.runtime.grammar import MAX_SCHEMA_BYTES, GrammarCompiler
from appliance.errors import InvalidRequestError
from appliance.server.http.wire import missing_parameter
from appliance.server.v1.chat.custom import INPUT_SCHEMA, GrammarTool, generic_rules, lark_of
from appliance.server.v1.chat.wire import Function
from appliance.server.v1.responses.response import CustomFormatEcho, OfferedCustom
from appliance.server.v1.responses.wire import ResponseTool

_NAME = re.compile(r"^[a-zA-Z0-9_-]{1,128}$")
_MAX_TOLD = 4000  # characters of a grammar that a model is told


def checked_name(tool: ResponseTool, param: str) -> str:
    """Return the name of a tool.

    Raises:
        InvalidRequestError: it has none, or one that cannot be called.
    """
    if tool.name is None:
        raise missing_parameter(f"{param}.name")
    if not _NAME.match(tool.name):
        raise InvalidRequestError(
            f"Invalid '{param}.name': {tool.name[:64]!r} is not 1 to 128 letters, digits, '_' or '-'.",
            param=f"{param}.name",
            code="invalid_value",
        )
    return tool.name


def has_grammar(tool: ResponseTool) -> bool:
    """Return True if the input of a custom tool follows a grammar."""
    return tool.format is not None and tool.format.type == "grammar"


def custom_function(tool: ResponseTool, param: str, grammars: GrammarCompiler) -> Function:
    """Return a custom tool as the function that chat offers; compiles, so never on the event loop.

    Raises:
        InvalidRequestError: the name or the grammar is not valid.
    """
    name = checked_name(tool, param)
    if tool.format is None or tool.format.type == "text":
        return Function.model_construct(name=name, description=tool.description, parameters=INPUT_SCHEMA, strict=True)
    for field in ("syntax", "definition"):
        if getattr(tool.format, field) is None:
            raise missing_parameter(f"{param}.format.{field}")
    syntax, definition = tool.format.syntax or "", tool.format.definition or ""
    place = f"{param}.format.definition"
    if len(definition) > MAX_SCHEMA_BYTES:
        raise InvalidRequestError(
            f"Invalid '{place}': the grammar has {len(definition)} characters; at most {MAX_SCHEMA_BYTES} are taken.",
            param=place,
        )
    told = f"{tool.description or ''}\nIts input follows this {syntax} grammar:\n{definition[:_MAX_TOLD]}".lstrip()
    made = GrammarTool.model_construct(
        name=name, description=told, parameters=INPUT_SCHEMA, strict=True, grammar=lark_of(syntax, definition)
    )
    try:
        grammars.lark(made.grammar, param=place)
        grammars.lark(f"start: custom\n{generic_rules([made])}", param=place)
    except InvalidRequestError as err:
        raise InvalidRequestError(err.message, param=place, code="invalid_grammar") from err
    return made


def custom_echo(tool: ResponseTool) -> OfferedCustom:
    """Return a custom tool as the answer names it."""
    form: CustomFormatEcho = {"type": tool.format.type if tool.format is not None else "text"}
    if tool.format is not None and tool.format.syntax is not None and tool.format.definition is not None:
        form["syntax"], form["definition"] = tool.format.syntax, tool.format.definition
    echo: OfferedCustom = {"type": "custom", "name": tool.name or "", "format": form}
    if tool.description is not None:
        echo["description"] = tool.description
    return echo
