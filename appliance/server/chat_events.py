"""Pieces of a choice's text become what a chat message is made of: reasoning, content, and calls of tools."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from appliance.server.choice import Choice, TextPiece, TokenRecord
from appliance.server.tools import GENERIC, ToolUse, as_tool
from appliance.text.reasoning import ReasoningDelta, ReasoningSplitter
from appliance.text.tool_calls import ArgumentsDelta, CallStart, Event, TextDelta, ToolCallParser, make_parser


@dataclass(frozen=True, slots=True)
class Delta:
    """A step of the message: one field of OpenAI's delta object, and the log probabilities that came with it."""

    fields: dict[str, Any]
    logprobs: tuple[TokenRecord, ...] = ()


class MessageReader:
    """Reads one choice and counts its calls; owned by the handler."""

    def __init__(self, choice: Choice, tools: ToolUse | None, splitter: ReasoningSplitter | None) -> None:
        """The splitter is there where the model's template knows reasoning, which is not content."""
        self.choice = choice
        self._tools = tools
        self._parser = _parser_for(tools)
        self._splitter = splitter
        self._num_calls = 0
        self.num_reasoning_tokens = 0

    @property
    def finish_reason(self) -> str:
        """OpenAI's finish reason, once the deltas are read."""
        if self._num_calls and self.choice.finish_reason == "stop":
            return "function_call" if self._tools is not None and self._tools.is_legacy else "tool_calls"
        return self.choice.finish_reason

    @property
    def _must_call(self) -> bool:
        return self._tools is not None and self._tools.must_call

    async def deltas(self) -> AsyncIterator[Delta]:
        """The message in order; begins with the role as soon as there is a token."""
        yield_role = True
        held: tuple[TokenRecord, ...] = ()
        async for piece in self.choice.pieces():
            if yield_role:
                yield Delta({"role": "assistant", "content": None if self._must_call else "", "refusal": None})
                yield_role = False
            held += piece.logprobs
            events = self._read(piece)
            if any(isinstance(event, ReasoningDelta) for event in events):
                self.num_reasoning_tokens = self.choice.num_tokens
            for fields in self._fields(events):
                yield Delta(fields, held)
                held = ()
        last = self._fields(self._flush())
        for fields in last or ([{} if self._must_call else {"content": ""}] if held else []):
            yield Delta(fields, held)
            held = ()

    def _read(self, piece: TextPiece) -> list[Event | ReasoningDelta]:
        return self._split(piece.text) if self._splitter is not None else list(self._parse(piece.text))

    def _split(self, text: str) -> list[Event | ReasoningDelta]:
        assert self._splitter is not None
        events: list[Event | ReasoningDelta] = []
        for event in self._splitter.push(text):
            events += [event] if isinstance(event, ReasoningDelta) else self._parse(event.text)
        return events

    def _parse(self, text: str) -> list[Event]:
        if not text:
            return []
        return self._parser.push(text) if self._parser is not None else [TextDelta(text)]

    def _flush(self) -> list[Event | ReasoningDelta]:
        events: list[Event | ReasoningDelta] = []
        for event in self._splitter.finish() if self._splitter is not None else []:
            events += [event] if isinstance(event, ReasoningDelta) else self._parse(event.text)
        return events + list(self._parser.finish() if self._parser is not None else [])

    def _fields(self, events: list[Event | ReasoningDelta]) -> list[dict[str, Any]]:
        return [fields for event in events if (fields := self._field(event)) is not None]

    def _field(self, event: Event | ReasoningDelta) -> dict[str, Any] | None:
        match event:
            case ReasoningDelta(text):
                return {"reasoning_content": text}
            case TextDelta(text):
                return None if self._must_call else {"content": text}  # only a call that was cut leaves text
            case CallStart(index, name):
                self._num_calls += self._is_wanted(index)
                head = {"name": name, "arguments": ""}
                return self._call(index, head, {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function"})
            case ArgumentsDelta(index, text):
                return self._call(index, {"arguments": text}, {})
            case _:
                return None

    def _call(self, index: int, function: dict[str, Any], head: dict[str, Any]) -> dict[str, Any] | None:
        if not self._is_wanted(index):
            return None
        if self._tools is not None and self._tools.is_legacy:
            return {"function_call": function}
        return {"tool_calls": [{"index": index, **head, "function": function}]}

    def _is_wanted(self, index: int) -> bool:
        return index == 0 or (self._tools is not None and self._tools.parallel)


def joined(deltas: list[Delta]) -> dict[str, Any]:
    """The message that the deltas add up to; its content is null where calls are all there is, or could be."""
    content: list[str | None] = []
    reasoning: list[str] = []
    calls: list[dict[str, Any]] = []
    legacy: dict[str, str] = {}
    for delta in deltas:
        content += [delta.fields["content"]] if "content" in delta.fields else []
        reasoning.append(delta.fields.get("reasoning_content") or "")
        for part in delta.fields.get("tool_calls", ()):
            if "id" in part:
                calls.append({"id": part["id"], "type": "function", "function": dict(part["function"])})
            else:
                calls[-1]["function"]["arguments"] += part["function"]["arguments"]
        for key, text in delta.fields.get("function_call", {}).items():
            legacy[key] = legacy.get(key, "") + text
    text = "".join(piece or "" for piece in content)
    can_be_null = bool(calls or legacy) or None in content
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    if can_be_null and not text:
        message["content"] = None
    if calls:
        message["tool_calls"] = calls
    if legacy:
        message["function_call"] = legacy
    if any(reasoning):
        message["reasoning_content"] = "".join(reasoning)
    return message


def _parser_for(tools: ToolUse | None) -> ToolCallParser | None:
    if tools is None:
        return None
    name = GENERIC if tools.reads_generic_form else tools.format
    return make_parser(name, [as_tool(f) for f in tools.functions])
