"""The tools of a request: functions are offered, tools of other types are left out unless one is forced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from appliance.engine.runtime.grammar import GrammarCompiler
from appliance.errors import InvalidRequestError
from appliance.server.http.wire import missing_parameter
from appliance.server.v1.chat.calls import call_forms
from appliance.server.v1.chat.custom import GrammarTool
from appliance.server.v1.chat.tools import GENERIC
from appliance.server.v1.chat.wire import AllowedTools, Function, NamedFunction, NamedToolChoice, Tool
from appliance.server.v1.responses.custom_tools import checked_name, custom_echo, custom_function, has_grammar
from appliance.server.v1.responses.response import OfferedCustom, OfferedFunction, ToolChoiceEcho
from appliance.server.v1.responses.wire import PromptFields, ResponseTool, ResponseToolChoice

_CALLED = ("function", "custom")
_FORMATS_WITH_GRAMMARS = frozenset({"hermes", GENERIC})  # which calls among text are held to
_OF_THIS_FORMAT = " with a grammar where tool_choice forces a call: this model makes other calls in a form of its own"

ChatToolChoice = Literal["none", "auto", "required"] | NamedToolChoice


@dataclass(frozen=True, slots=True)
class Offer:
    """The functions that are offered, in the forms of chat and of the answer; `ignored` are the types left out.

    `custom`: the custom tools among them, true for those whose input comes as it is, since it follows a grammar.
    """

    tools: list[Tool]
    choice: ChatToolChoice | None
    ignored: tuple[str, ...]
    echo: list[OfferedFunction | OfferedCustom]
    choice_echo: str | ToolChoiceEcho
    custom: dict[str, bool]


def offer(wire: PromptFields, included: Sequence[str], grammars: GrammarCompiler, *, call_format: str) -> Offer:
    """Read tools and tool_choice; compiles schemas, so never on the event loop. `call_format`: of the model's calls.

    Raises:
        InvalidRequestError: a tool that is not valid, or one that cannot be left out.
    """
    asked = wire.tools or []
    choice = wire.tool_choice
    follows_grammars = call_format in _FORMATS_WITH_GRAMMARS or _is_forced(choice)
    functions: list[Function] = []
    echo: list[OfferedFunction | OfferedCustom] = []
    custom: dict[str, bool] = {}
    left_out = list(asked)
    for i, tool in enumerate(asked):
        if tool.type == "custom" and (follows_grammars or not has_grammar(tool)):
            functions.append(custom_function(tool, f"tools[{i}]", grammars))
            echo.append(custom_echo(tool))
            custom[functions[-1].name] = isinstance(functions[-1], GrammarTool)
        elif tool.type == "function":
            functions.append(_function(tool, f"tools[{i}]", grammars))
            echo.append(_echo(functions[-1]))
        else:
            continue
        left_out.remove(tool)
    ignored = _ignored(wire, asked, left_out, included, has_functions=bool(functions))
    if choice is None or isinstance(choice, str):
        return Offer(_tools(functions), choice, ignored, echo, choice or "auto", custom)
    choice_echo: ToolChoiceEcho = {"type": choice.type}
    if choice.name is not None:
        choice_echo["name"] = choice.name
    if choice.mode is not None and choice.tools is not None:
        choice_echo["mode"], choice_echo["tools"] = choice.mode, choice.tools
    return Offer(_tools(functions), _choice(choice), ignored, echo, choice_echo, custom)


def _is_forced(choice: object) -> bool:
    """Return True if a call has to be made, which any model then makes in the generic form."""
    if isinstance(choice, ResponseToolChoice):
        return choice.type != "allowed_tools" or choice.mode == "required"
    return choice == "required"


def _echo(function: Function) -> OfferedFunction:
    return {
        "type": "function",
        "name": function.name,
        "description": function.description,
        "parameters": function.parameters,
        "strict": function.strict,
    }


def _tools(functions: Sequence[Function]) -> list[Tool]:
    return [Tool(type="function", function=function) for function in functions]


def _function(tool: ResponseTool, param: str, grammars: GrammarCompiler) -> Function:
    if tool.function is not None and tool.name is None:
        raise InvalidRequestError(
            f"Missing required parameter: '{param}.name'. In /v1/responses the fields of a function stand beside its "
            "'type', not below 'function'.",
            param=f"{param}.name",
            code="missing_required_parameter",
        )
    name = checked_name(tool, param)
    # Chat's own names are shorter, so its model is not asked.
    loose = Function.model_construct(name=name, description=tool.description, parameters=tool.parameters, strict=False)
    if tool.strict is False:
        return loose
    strict = loose.model_copy(update={"strict": True})
    try:
        call_forms([strict], grammars)
    except InvalidRequestError as err:
        if not tool.strict:
            return loose
        place = f"{param}.parameters"
        message = err.message.replace("tools[0].function.parameters", place)
        raise InvalidRequestError(message, param=place, code=err.code) from err
    return strict


def _ignored(
    wire: PromptFields,
    asked: Sequence[ResponseTool],
    left_out: Sequence[ResponseTool],
    included: Sequence[str],
    *,
    has_functions: bool,
) -> tuple[str, ...]:
    """Return the types of tools that are left out, each once.

    Raises:
        InvalidRequestError: nothing else is left, or an answer needs one of them.
    """
    is_forced = wire.tool_choice == "required" and not has_functions
    results = {name.partition(".")[0] for name in included}
    for i, tool in enumerate(asked):
        if tool not in left_out:
            continue
        is_included = f"{tool.type}_call" in results or f"{tool.type}_call_output" in results
        if not has_functions or is_forced or is_included:
            raise InvalidRequestError(
                f"Invalid 'tools[{i}].type': this server has no tool of type {tool.type[:40]!r}, only functions and "
                f"custom ones{_OF_THIS_FORMAT if tool.type == 'custom' else ''}.",
                param=f"tools[{i}].type",
                code="unsupported_value",
            )
    return tuple(dict.fromkeys(tool.type for tool in left_out))


def _choice(choice: ResponseToolChoice) -> NamedToolChoice:
    if choice.type in _CALLED:
        if choice.name is None:
            raise missing_parameter("tool_choice.name")
        return NamedToolChoice(type="function", function=NamedFunction(name=choice.name))
    if choice.type == "allowed_tools":
        if choice.mode is None:
            raise missing_parameter("tool_choice.mode")
        if not choice.tools:
            raise missing_parameter("tool_choice.tools")
        named = [_allowed(tool, f"tool_choice.tools[{i}]") for i, tool in enumerate(choice.tools)]
        return NamedToolChoice(type="allowed_tools", allowed_tools=AllowedTools(mode=choice.mode, tools=named))
    raise InvalidRequestError(
        f"Invalid 'tool_choice': this server has no tool of type {choice.type[:40]!r}, only functions.",
        param="tool_choice",
        code="unsupported_value",
    )


def _allowed(tool: Mapping[str, Any], param: str) -> dict[str, Any]:
    if tool.get("type", "function") not in _CALLED:
        raise InvalidRequestError(
            f"Invalid '{param}.type': only functions and custom tools can be allowed here.",
            param=param,
            code="unsupported_value",
        )
    return {"type": "function", "function": {"name": tool.get("name")}}
