"""The rules of a chat template about conversations, found by rendering short ones when it is loaded; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]
Try = Callable[[Sequence[Message], Sequence[Mapping[str, Any]]], str | None]

_SYSTEM, _RESULT, _NAME = "Sys7em", "Resul7", "func7ion"
_LONG_ID, _SHORT_ID = "call_0123456789abcdef01234567", "000000001"
_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {"name": _NAME, "description": "", "parameters": {"type": "object", "properties": {}}},
}


@dataclass(frozen=True, slots=True)
class Conventions:
    """The messages that a template takes as they are; a conversation is rewritten for each rule that is false.

    takes_system: a system message is part of the prompt.
    takes_neighbours: two messages of one role may follow each other.
    takes_assistant_first: a conversation may begin with the assistant.
    takes_calls: calls and their results are part of the prompt.
    takes_parallel_calls: a message may have two calls.
    takes_long_ids: ids of calls may be as long as OpenAI's; Mistral's templates want nine characters.
    """

    takes_system: bool = True
    takes_neighbours: bool = True
    takes_assistant_first: bool = True
    takes_calls: bool = True
    takes_parallel_calls: bool = True
    takes_long_ids: bool = True


def conventions_of(try_to_render: Try) -> Conventions:
    """Return the rules of a template; `try_to_render` returns None if it refuses the messages."""

    def renders(*messages: Message) -> bool:
        return try_to_render(messages, ()) is not None

    user, assistant = _text("user", "Hello"), _text("assistant", "Hello")
    system = _text("system", _SYSTEM)
    long_ids = _takes_call(try_to_render, _LONG_ID)
    takes_calls = long_ids or _takes_call(try_to_render, _SHORT_ID)
    call_id = _LONG_ID if long_ids else _SHORT_ID
    answered = [system, user, _calls(call_id), _result(call_id)]
    two_calls = [user, _calls(call_id, call_id[:-1] + "2"), _result(call_id), _result(call_id[:-1] + "2")]
    return Conventions(
        takes_system=_SYSTEM in (try_to_render([system, user], ()) or "")
        # Mistral's templates leave it out if the last message is not the user's.
        and (not takes_calls or _SYSTEM in (try_to_render(answered, ()) or "")),
        takes_neighbours=renders(user, user) and renders(user, assistant, assistant, user),
        takes_assistant_first=renders(assistant, user)
        # Llama 3.1's template takes the first message for the user's if there are tools.
        and not (renders(system) and try_to_render([system], [_TOOL]) is None),
        takes_calls=takes_calls,
        takes_parallel_calls=try_to_render(two_calls, [_TOOL]) is not None,
        takes_long_ids=long_ids or not takes_calls,
    )


def _takes_call(try_to_render: Try, call_id: str) -> bool:
    """Tell if a call and its result are written; the name of a tool may come from its description, too."""
    conversation = [_text("user", "Hello"), _calls(call_id), _result(call_id)]
    for tools in ((), (_TOOL,)):
        rendered, alone = try_to_render(conversation, tools), try_to_render(conversation[:1], tools)
        if rendered is None or alone is None or _RESULT not in rendered:
            continue
        if rendered.count(_NAME) > alone.count(_NAME):
            return True
    return False


def _text(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _calls(*ids: str) -> Message:
    calls = [{"id": i, "type": "function", "function": {"name": _NAME, "arguments": "{}"}} for i in ids]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _result(call_id: str) -> Message:
    return {"role": "tool", "content": _RESULT, "tool_call_id": call_id}
