"""Items become the messages that a chat request has; neighbouring items of the model are one turn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from appliance.errors import InvalidRequestError
from appliance.server.state.sealing import Sealer
from appliance.server.v1.chat.wire import FunctionCall, Message, ToolCall
from appliance.server.v1.responses.item_answers import (
    CustomCallItem,
    CustomOutputItem,
    FunctionCallItem,
    FunctionOutputItem,
    InputMessageItem,
    Item,
    OutputMessageItem,
    ReasoningOutputItem,
)
from appliance.server.v1.responses.response import Transformation


@dataclass(frozen=True, slots=True)
class Conversation:
    """The messages, and the items that could not become a part of one."""

    messages: list[Message]
    removed: list[Transformation]


def conversation(instructions: str | None, items: Sequence[Item], sealer: Sealer) -> Conversation:
    """Return the conversation that the items are, instructions first.

    Raises:
        InvalidRequestError: a result answers no call, or nothing is left to be read.
    """
    reader = _Reader(sealer)
    if instructions is not None:
        reader.messages.append(Message(role="system", content=instructions))
    for item in items:
        reader.read(item)
    reader.end_turn()
    if not reader.messages:
        raise InvalidRequestError("Invalid 'input': it has no item that the model could read.", param="input")
    return Conversation(reader.messages, reader.removed)


@dataclass(slots=True)
class _Turn:
    """The items of one assistant turn."""

    reasoning: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)


class _Reader:
    """The messages so far; owned by one call of `conversation`."""

    def __init__(self, sealer: Sealer) -> None:
        self.messages: list[Message] = []
        self.removed: list[Transformation] = []
        self._sealer = sealer
        self._turn: _Turn | None = None
        self._called: set[str] = set()

    def read(self, item: Item) -> None:
        if item["type"] == "reasoning":
            self._read_reasoning(item)
        elif item["type"] == "function_call":
            self._read_call(item)
        elif item["type"] == "custom_tool_call":
            self._read_custom_call(item)
        elif item["type"] == "function_call_output" or item["type"] == "custom_tool_call_output":
            self._read_output(item)
        elif item["role"] == "assistant":
            self._read_answer(item)
        else:
            self._read_message(item)

    def end_turn(self) -> None:
        """Make one message of the model's items since the last message of another."""
        turn, self._turn = self._turn, None
        if turn is not None:
            message = Message(
                role="assistant",
                content="".join(turn.texts),
                reasoning_content="\n".join(turn.reasoning) or None,
                tool_calls=turn.calls or None,
            )
            self.messages.append(message)

    def _open_turn(self) -> _Turn:
        self._turn = self._turn or _Turn()
        return self._turn

    def _read_message(self, item: InputMessageItem) -> None:
        self.end_turn()
        self.messages.append(Message(role=item["role"], content="".join(part["text"] for part in item["content"])))

    def _read_answer(self, item: OutputMessageItem) -> None:
        self._open_turn().texts += [part["text"] for part in item["content"]]

    def _read_call(self, item: FunctionCallItem) -> None:
        arguments = item["arguments"] if item["status"] != "incomplete" or _is_json(item["arguments"]) else "{}"
        call = ToolCall(id=item["call_id"], function=FunctionCall(name=item["name"], arguments=arguments))
        self._open_turn().calls.append(call)
        self._called.add(item["call_id"])

    def _read_custom_call(self, item: CustomCallItem) -> None:
        arguments = json.dumps({"input": item["input"]}, ensure_ascii=False)
        call = ToolCall(id=item["call_id"], function=FunctionCall(name=item["name"], arguments=arguments))
        self._open_turn().calls.append(call)
        self._called.add(item["call_id"])

    def _read_output(self, item: FunctionOutputItem | CustomOutputItem) -> None:
        if item["call_id"] not in self._called:
            kind = "function" if item["type"] == "function_call_output" else "custom tool"
            raise InvalidRequestError(
                f"No tool call found for {kind} call output with call_id {item['call_id'][:80]}.", param="input"
            )
        self.end_turn()
        self.messages.append(Message(role="tool", content=item["output"], tool_call_id=item["call_id"]))

    def _read_reasoning(self, item: ReasoningOutputItem) -> None:
        text = "".join(part["text"] for part in item.get("content", ()))
        text = text or "\n".join(part["text"] for part in item["summary"])
        if not text and "encrypted_content" in item:
            text = self._sealer.open(item["encrypted_content"]) or ""
        if text:
            self._open_turn().reasoning.append(text)
        else:
            self.removed.append(
                {"id": item["id"], "type": "reasoning", "action": "removed", "reason": "model_mismatch"}
            )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
