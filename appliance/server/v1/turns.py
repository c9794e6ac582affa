"""The turns of a conversation, and the one place that makes them messages of a chat template, for every route.

Routes read their own wire into turns. A template that refuses a conversation gets the same words in the form that each
template takes: users and assistants in turn, everything else told as their text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from appliance.server.v1.alternation import alternating, one_call_each, with_short_ids
from appliance.server.v1.turn import Turn
from appliance.text.arguments import arguments_text
from appliance.text.conventions import Conventions
from appliance.text.prompt import RenderedPrompt
from appliance.text.template import ChatTemplate, TemplateRefusalError

_PLAIN = Conventions(
    takes_system=False,
    takes_neighbours=False,
    takes_assistant_first=False,
    takes_calls=False,
    takes_parallel_calls=False,
)


def render_turns(
    template: ChatTemplate,
    turns: Sequence[Turn],
    *,
    instructions: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    extra: Mapping[str, object] | None = None,
) -> RenderedPrompt:
    """Render a conversation with any history, ending where the answer begins; never on the event loop.

    Args:
        template: the model's.
        turns: system turns anywhere; all of them become the first message.
        instructions: added to the end of the system message.
        tools: in chat's form, for a template that knows them.
        extra: further variables of the template.

    Raises:
        InvalidRequestError: the template cannot render the variables, or the prompt is too long.
    """
    knows_tools = template.supports_tools
    messages = messages_of(turns, template.conventions, knows_tools=knows_tools, instructions=instructions)
    try:
        return template.render(messages, tools=tools, extra=extra)
    except TemplateRefusalError as err:
        plain = messages_of(turns, _PLAIN, knows_tools=False, instructions=instructions)
        try:
            return template.render(plain, tools=tools, extra=extra)
        except TemplateRefusalError:
            raise err from None


def messages_of(
    turns: Sequence[Turn], conventions: Conventions, *, knows_tools: bool, instructions: str | None = None
) -> list[dict[str, Any]]:
    """Return the messages of a conversation as the conventions of its template want them."""
    system = [turn.content for turn in turns if turn.role == "system"]
    system += [instructions] if instructions is not None else []
    spoken = [turn for turn in turns if turn.role != "system"]
    if knows_tools and conventions.takes_calls:
        spoken = spoken if conventions.takes_parallel_calls else one_call_each(spoken)
        spoken = spoken if conventions.takes_long_ids else with_short_ids(spoken)
    else:
        spoken = _told_as_text(spoken)
    if system and not conventions.takes_system:
        spoken = _with_system_folded(spoken, "\n\n".join(system))
        system = []
    if not conventions.takes_assistant_first and (not spoken or spoken[0].role != "user"):
        spoken = [Turn("user"), *spoken]
    if not conventions.takes_neighbours:
        spoken = alternating(spoken)
    first = [Turn("system", "\n\n".join(system))] if system else []
    return [_message(turn) for turn in (*first, *spoken)]


def num_characters(turns: Sequence[Turn]) -> int:
    """Return the length of everything that was written, before it is rendered."""
    return sum(len(turn.content) + sum(len(call.arguments) for call in turn.calls) for turn in turns)


def called_since_user(turns: Sequence[Turn]) -> frozenset[str]:
    """Return the names of the tools that were called since the last message of a user."""
    called: set[str] = set()
    for turn in turns:
        called = set() if turn.role == "user" else called | {call.name for call in turn.calls}
    return frozenset(called)


def _with_system_folded(turns: Sequence[Turn], system: str) -> list[Turn]:
    if turns and turns[0].role == "user":
        return [replace(turns[0], content=f"{system}\n\n{turns[0].content}"), *turns[1:]]
    return [Turn("user", system), *turns]


def _told_as_text(turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns with calls and results as text, for a template that knows neither."""
    names: dict[str | None, str] = {}
    told = []
    for turn in turns:
        if turn.role == "tool":
            name = turn.name or names.get(turn.call_id, "")
            told.append(Turn("user", f"The tool {name} answered:\n{turn.content}"))
            continue
        lines = [turn.content] if turn.content else []
        for call in turn.calls:
            names[call.id] = call.name
            lines.append(f'{{"name": {json.dumps(call.name)}, "arguments": {arguments_text(call.arguments)}}}')
        told.append(replace(turn, content="\n".join(lines), calls=()))
    if turns and turns[-1].role == "tool":  # else the smallest models make the same call for ever
        told[-1] = replace(told[-1], content=told[-1].content + "\n\nTell me in words.")
    return told


def _message(turn: Turn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.calls:
        message["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            | ({"id": call.id} if call.id is not None else {})
            for call in turn.calls
        ]
    optional = {"reasoning_content": turn.reasoning, "tool_call_id": turn.call_id, "name": turn.name}
    return message | {key: value for key, value in optional.items() if value is not None}
