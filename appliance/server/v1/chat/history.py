"""The turns of a chat request: its messages, read leniently in what the server writes itself, strictly in content."""

from __future__ import annotations

from appliance.errors import InvalidRequestError, UnsupportedContentError
from appliance.server.http.wire import missing_parameter
from appliance.server.v1.chat.wire import ContentPart, Message
from appliance.server.v1.turn import Call, Turn

_INSTRUCTIONS = frozenset({"system", "developer"})


def turns_of(messages: list[Message]) -> list[Turn]:
    """Return the turns of a request.

    Raises:
        InvalidRequestError: content is missing or of a kind that is not read, or a result answers no call.
    """
    called: set[str] = set()
    turns = []
    for i, message in enumerate(messages):
        param = f"messages[{i}]"
        called |= {call.id for call in message.tool_calls or ()}
        if message.role == "tool" and message.tool_call_id is not None and message.tool_call_id not in called:
            raise _answers_nothing(f"{param}.tool_call_id")
        turns.append(_turn(message, param))
    return turns


def _turn(message: Message, param: str) -> Turn:
    if message.role == "assistant":
        return _assistant_turn(message, param)
    if message.role in _INSTRUCTIONS:
        return Turn("system", _content(message, param))
    content = _content(message, param)
    if message.role == "user":
        return Turn("user", content, name=message.name)
    if message.role == "tool" and message.tool_call_id is None:
        raise missing_parameter(f"{param}.tool_call_id")
    return Turn("tool", content, call_id=message.tool_call_id, name=message.name)


def _assistant_turn(message: Message, param: str) -> Turn:
    """Read a message of ours: one that was cut has neither content nor calls, and is an empty turn."""
    calls = [Call(call.function.name, call.function.arguments, call.id) for call in message.tool_calls or ()]
    if message.function_call is not None:
        calls.append(Call(message.function_call.name, message.function_call.arguments))
    content = (message.refusal or "") if message.content is None else _content(message, param)
    return Turn("assistant", content, message.reasoning_content, tuple(calls), name=message.name)


def _content(message: Message, param: str) -> str:
    if message.content is None:
        raise missing_parameter(f"{param}.content")
    if isinstance(message.content, str):
        return message.content
    return "".join(_part(part, f"{param}.content[{j}]") for j, part in enumerate(message.content))


def _part(part: ContentPart, param: str) -> str:
    if part.type == "text":
        if part.text is None:
            raise missing_parameter(f"{param}.text")
        return part.text
    if part.type == "refusal":
        return part.refusal or ""
    raise UnsupportedContentError(
        f"Invalid '{param}': this model reads text only, not parts of type '{part.type[:40]}'.", param=param
    )


def _answers_nothing(param: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"Invalid '{param}': messages with role 'tool' must answer one of the 'tool_calls' before them.",
        param=param,
        code="invalid_value",
    )
