"""A chat request's messages become the prompt's tokens: roles and content normalized, rendered, encoded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from appliance.engine.constraint import Constraint
from appliance.errors import ContextLengthError, InvalidRequestError, UnsupportedContentError
from appliance.models import ChatModel
from appliance.server.chat_wire import ChatRequest, ContentPart, Message
from appliance.server.grammar import constraint_for
from appliance.server.tools import ToolUse, tool_use
from appliance.text.prompt import RenderedPrompt
from appliance.text.reasoning import opens_reasoning

_MAX_CHARACTERS_PER_TOKEN = 64  # beyond this a prompt is too long whatever its tokens are

_INSTRUCTIONS = frozenset({"system", "developer"})


@dataclass(frozen=True, slots=True)
class ChatPlan:
    """A chat request made ready for the engine: prompt, grammar of each choice, and how to read the answers."""

    prompt: tuple[int, ...]
    tools: ToolUse | None
    constraints: tuple[Constraint | None, ...]
    starts_inside_reasoning: bool


def plan_chat(model: ChatModel, wire: ChatRequest) -> ChatPlan:
    """Render, encode and compile; takes milliseconds, so never on the event loop.

    Raises:
        ContextLengthError: the prompt leaves no room for an answer.
        InvalidRequestError: a message, a tool or a schema that cannot be taken.
    """
    tools = tool_use(wire, model.template)
    rendered = _render(model, wire, tools)
    prompt = model.tokenizer.encode_rendered(rendered)
    model.engine.check(len(prompt))
    constraints = tuple(constraint_for(wire, tools, model.grammars) for _ in range(wire.n))
    return ChatPlan(prompt, tools, constraints, opens_reasoning(rendered.text))


def _render(model: ChatModel, wire: ChatRequest, tools: ToolUse | None) -> RenderedPrompt:
    if model.template is None:
        raise InvalidRequestError(f"The model `{wire.model}` has no chat template.", param="model")
    messages = template_messages(wire, knows_tools=model.template.supports_tools)
    instructions = tools.instructions() if tools is not None else None
    if instructions is not None:
        messages = _with_instructions(messages, instructions)
    num_characters = sum(len(m["content"]) for m in messages)
    limit = model.engine.capacity
    if num_characters > limit * _MAX_CHARACTERS_PER_TOKEN:
        raise ContextLengthError(
            f"This model's maximum context length is {limit} tokens. However, your messages resulted in "
            f"more than that ({num_characters} characters). Please reduce the length of the messages.",
            param="messages",
        )
    extra = dict(wire.chat_template_kwargs or {})
    if wire.reasoning_effort is not None:
        extra.setdefault("reasoning_effort", wire.reasoning_effort)
    return model.template.render(messages, tools=tools.for_template() if tools is not None else None, extra=extra)


def template_messages(wire: ChatRequest, *, knows_tools: bool) -> list[dict[str, Any]]:
    """Messages as chat templates know them; all instructions become one first system message.

    Where the template knows no tools, calls and their results are told as text.
    """
    instructions: list[str] = []
    turns: list[dict[str, Any]] = []
    called: set[str] = set()
    for i, message in enumerate(wire.messages):
        param = f"messages[{i}]"
        called |= {call.id for call in message.tool_calls or ()}
        if message.role == "tool" and message.tool_call_id is not None and message.tool_call_id not in called:
            raise _answers_nothing(f"{param}.tool_call_id")
        if message.role in _INSTRUCTIONS:
            instructions.append(_content(message, param))
        else:
            turns.append(_turn(message, param))
    turns = turns if knows_tools else _told_as_text(turns)
    return _with_instructions(turns, "\n\n".join(instructions)) if instructions else turns


def _with_instructions(messages: list[dict[str, Any]], instructions: str) -> list[dict[str, Any]]:
    if messages and messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{messages[0]['content']}\n\n{instructions}"}, *messages[1:]]
    return [{"role": "system", "content": instructions}, *messages]


def _told_as_text(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names: dict[str, str] = {}
    told = []
    for turn in turns:
        if turn["role"] == "tool":
            name = turn.get("name") or names.get(turn.get("tool_call_id", ""), "")
            told.append({"role": "user", "content": f"The tool {name} answered:\n{turn['content']}"})
            continue
        lines = [turn["content"]] if turn["content"] else []
        for call in turn.get("tool_calls", ()):
            function = call["function"]
            names[call.get("id", "")] = function["name"]
            arguments = function["arguments"] or "{}"
            lines.append(f'{{"name": {json.dumps(function["name"])}, "arguments": {arguments}}}')
        told.append({"role": turn["role"], "content": "\n".join(lines)})
    if turns and turns[-1]["role"] == "tool":
        told[-1]["content"] += "\n\nTell me in words."  # else the smallest models make the same call for ever
    return told


def _turn(message: Message, param: str) -> dict[str, Any]:
    if message.role == "assistant":
        return _assistant_turn(message, param)
    turn: dict[str, Any] = {"role": message.role, "content": _content(message, param)}
    if message.role in {"tool", "function"}:
        turn["role"] = "tool"
        if message.role == "tool" and message.tool_call_id is None:
            raise _missing(f"{param}.tool_call_id")
        if message.tool_call_id is not None:
            turn["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        turn["name"] = message.name
    return turn


def _assistant_turn(message: Message, param: str) -> dict[str, Any]:
    calls: list[dict[str, Any]] = [
        {"id": c.id, "type": "function", "function": c.function.model_dump()} for c in message.tool_calls or []
    ]
    if message.function_call is not None:
        calls.append({"type": "function", "function": message.function_call.model_dump()})
    if message.content is None and message.refusal is not None:
        content = message.refusal
    elif message.content is None and calls:
        content = ""
    else:
        content = _content(message, param)
    turn: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        turn["tool_calls"] = calls
        for j, call in enumerate(calls):
            _check_arguments(call["function"]["arguments"], f"{param}.tool_calls[{j}].function.arguments")
    if message.reasoning_content is not None:
        turn["reasoning_content"] = message.reasoning_content
    return turn


def _check_arguments(arguments: str, param: str) -> None:
    try:
        json.loads(arguments or "{}")
    except (ValueError, RecursionError) as err:
        raise InvalidRequestError(f"Invalid '{param}': it must be JSON text.", param=param) from err


def _content(message: Message, param: str) -> str:
    if message.content is None:
        raise _missing(f"{param}.content")
    if isinstance(message.content, str):
        return message.content
    return "".join(_part(part, f"{param}.content[{j}]") for j, part in enumerate(message.content))


def _part(part: ContentPart, param: str) -> str:
    if part.type == "text":
        if part.text is None:
            raise _missing(f"{param}.text")
        return part.text
    if part.type == "refusal":
        return part.refusal or ""
    raise UnsupportedContentError(
        f"Invalid '{param}': this model reads text only, not parts of type '{part.type[:40]}'.", param=param
    )


def _missing(param: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
    )


def _answers_nothing(param: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"Invalid '{param}': messages with role 'tool' must answer one of the 'tool_calls' before them.",
        param=param,
        code="invalid_value",
    )
