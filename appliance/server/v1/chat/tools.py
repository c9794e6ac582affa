"""The tools of a request, for the prompt, for the grammar, and for the reader of the answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from appliance.errors import InvalidRequestError
from appliance.server.http.wire import missing_parameter
from appliance.server.v1.chat.custom import grammar_tools, marker
from appliance.server.v1.chat.wire import ChatRequest, Function, LegacyFunction, NamedFunction, NamedToolChoice
from appliance.text.template import ChatTemplate
from appliance.text.tool_calls import format_for_template

GENERIC = "generic"

_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}

_INSTRUCTIONS = """You can call these tools:
{tools}
To call one, answer with nothing but JSON in this form: {{"name": "TOOL", "arguments": {{...}}}}"""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that may be called now. `must_call` leaves the model no other answer."""

    functions: tuple[Function, ...]
    must_call: bool
    parallel: bool
    is_legacy: bool
    format: str
    template_knows_tools: bool

    def for_template(self) -> list[dict[str, Any]] | None:
        """Return the `tools` of a template that knows them."""
        return [as_tool(f) for f in self.functions] if self.template_knows_tools else None

    def instructions(self) -> str | None:
        """Return the instructions for a model whose template knows no tools."""
        if self.template_knows_tools:
            return None
        described = (json.dumps(as_tool(f)["function"], ensure_ascii=False) for f in self.functions)
        text = _INSTRUCTIONS.format(tools="\n".join(described))
        for tool in grammar_tools(self.functions):
            text += f"\nTo call {tool.name}, answer with {marker(tool.name, is_generic=True)}and then its input."
        return text

    @property
    def reads_generic_form(self) -> bool:
        """Return True if calls come as bare JSON: always if they are forced, so that any model can be forced."""
        return self.must_call or self.format == GENERIC


def tool_use(wire: ChatRequest, template: ChatTemplate | None) -> ToolUse | None:
    """Read the tools of a request; None if no tool may be called.

    Raises:
        InvalidRequestError: a name is not among the tools, or there is a choice without tools.
    """
    is_legacy = not wire.tools and bool(wire.functions)
    functions = [_as_function(f) for f in wire.functions or []] if is_legacy else [t.function for t in wire.tools or []]
    allowed, must_call = _legacy_choice(wire, functions) if is_legacy else _choice(wire, functions)
    if not allowed:
        return None
    source = template.source if template is not None else ""
    return ToolUse(
        functions=tuple(allowed),
        must_call=must_call,
        parallel=wire.parallel_tool_calls and not is_legacy,
        is_legacy=is_legacy,
        format=format_for_template(source),
        template_knows_tools=template is not None and template.supports_tools,
    )


def as_tool(function: Function) -> dict[str, Any]:
    """Return a function in OpenAI's form, as chat templates expect it."""
    described: dict[str, Any] = {"name": function.name, "description": function.description or ""}
    described["parameters"] = function.parameters if function.parameters is not None else _NO_PARAMETERS
    return {"type": "function", "function": described}


def _as_function(function: LegacyFunction) -> Function:
    return Function(name=function.name, description=function.description, parameters=function.parameters)


def _choice(wire: ChatRequest, functions: list[Function]) -> tuple[list[Function], bool]:
    choice = wire.tool_choice
    if isinstance(choice, str) or choice is None:
        if choice == "required" and not functions:
            raise _without_tools("tool_choice")
        return ([], False) if choice == "none" else (functions, choice == "required")
    if not functions:
        raise _without_tools("tool_choice")
    if choice.type == "allowed_tools":
        return _allowed(choice, functions)
    if choice.function is None:
        raise missing_parameter("tool_choice.function")
    return _named(choice.function, functions, "tool_choice"), True


def _allowed(choice: NamedToolChoice, functions: list[Function]) -> tuple[list[Function], bool]:
    allowed = choice.allowed_tools
    if allowed is None:
        raise missing_parameter("tool_choice.allowed_tools")
    names = [t["function"].get("name") if isinstance(t.get("function"), dict) else None for t in allowed.tools]
    known = [f.name for f in functions]  # not a set: a name may be any JSON
    for i, name in enumerate(names):
        if name not in known:
            param = f"tool_choice.allowed_tools.tools[{i}]"
            raise InvalidRequestError(f"Invalid '{param}': it names none of the tools.", param=param)
    return [f for f in functions if f.name in names], allowed.mode == "required"


def _legacy_choice(wire: ChatRequest, functions: list[Function]) -> tuple[list[Function], bool]:
    choice = wire.function_call
    if isinstance(choice, NamedFunction):
        return _named(choice, functions, "function_call"), True
    return ([], False) if choice == "none" else (functions, False)


def _named(choice: NamedFunction, functions: list[Function], param: str) -> list[Function]:
    named = [f for f in functions if f.name == choice.name]
    if not named:
        raise InvalidRequestError(f"Invalid '{param}': {choice.name[:64]!r} is none of the tools.", param=param)
    return named[:1]


def _without_tools(param: str) -> InvalidRequestError:
    return InvalidRequestError(f"Invalid '{param}': it is only allowed when tools are specified.", param=param)
