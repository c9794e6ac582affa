"""The parts of a chat message: pieces of a choice's text become reasoning, content, and calls of tools."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from appliance.server.v1.chat.custom import grammar_tools, marker
from appliance.server.v1.chat.response import (
    CalledFunction,
    ChatDelta,
    ChatFinishReason,
    ChatMessage,
    FunctionDelta,
    MessageToolCall,
    ToolCallDelta,
)
from appliance.server.v1.chat.tools import GENERIC, ToolUse, as_tool
from appliance.server.v1.choice import TextFinishReason, TextPiece, TokenRecord
from appliance.text.reasoning import ReasoningDelta, ReasoningSplitter
from appliance.text.tool_calls import ArgumentsDelta, CallStart, Event, TextDelta, ToolCallParser, make_parser
from appliance.text.tool_calls.raw import RawCallParser


@dataclass(frozen=True, slots=True)
class Delta:
    """A step of the message: one field of OpenAI's delta object, and the log probabilities of its tokens."""

    fields: ChatDelta
    logprobs: tuple[TokenRecord, ...] = ()


class MessageReader:
    """The message of one choice while its text is read; owned by the handler.

    `finish_reason` is there once the last piece is read.
    """

    def __init__(self, index: int, tools: ToolUse | None, splitter: ReasoningSplitter | None) -> None:
        """Read with a `splitter` if the model's template knows reasoning, which is not content."""
        self.index = index
        self.finish_reason: ChatFinishReason | None = None
        self.num_reasoning_tokens = 0
        self._tools = tools
        self._parser = _parser_for(tools)
        self._splitter = splitter
        self._must_call = tools is not None and tools.must_call
        self._num_calls = 0
        self._is_first = True
        self._held: tuple[TokenRecord, ...] = ()

    def read(self, piece: TextPiece) -> list[Delta]:
        """Take the next piece of text; return the steps that it completes. The first one has the role."""
        deltas: list[Delta] = []
        if self._is_first:
            self._is_first = False
            deltas.append(Delta({"role": "assistant", "content": None if self._must_call else "", "refusal": None}))
        self._held += piece.logprobs
        events = self._split(piece.text)
        if self._splitter is not None and any(isinstance(event, ReasoningDelta) for event in events):
            self.num_reasoning_tokens = piece.num_tokens
        deltas += self._deltas(events)
        if piece.finish_reason is not None:
            deltas += self._finish(piece.finish_reason)
        return deltas

    def _finish(self, reason: TextFinishReason) -> list[Delta]:
        deltas = self._deltas(self._flush())
        if self._held:  # tokens without visible text have log probabilities all the same
            deltas.append(Delta({} if self._must_call else {"content": ""}, self._held))
        self.finish_reason = reason
        if self._num_calls and reason == "stop":
            self.finish_reason = "function_call" if self._is_legacy else "tool_calls"
        return deltas

    @property
    def _is_legacy(self) -> bool:
        return self._tools is not None and self._tools.is_legacy

    def _split(self, text: str) -> Sequence[Event | ReasoningDelta]:
        if self._splitter is None:
            return self._parse(text)
        return self._parse_text(self._splitter.push(text))

    def _flush(self) -> list[Event | ReasoningDelta]:
        events = self._parse_text(self._splitter.finish()) if self._splitter is not None else []
        return events + list(self._parser.finish() if self._parser is not None else [])

    def _parse_text(self, parts: Iterable[ReasoningDelta | TextDelta]) -> list[Event | ReasoningDelta]:
        events: list[Event | ReasoningDelta] = []
        for part in parts:
            events += [part] if isinstance(part, ReasoningDelta) else self._parse(part.text)
        return events

    def _parse(self, text: str) -> Sequence[Event]:
        if not text:
            return []
        return self._parser.push(text) if self._parser is not None else [TextDelta(text)]

    def _deltas(self, events: Iterable[Event | ReasoningDelta]) -> list[Delta]:
        deltas = []
        for event in events:
            fields = self._fields(event)
            if fields is not None:
                deltas.append(Delta(fields, self._held))
                self._held = ()
        return deltas

    def _fields(self, event: Event | ReasoningDelta) -> ChatDelta | None:
        match event:
            case TextDelta(text):
                return None if self._must_call else {"content": text}  # only a call that was cut leaves text
            case ReasoningDelta(text):
                return {"reasoning_content": text}
            case CallStart(index, name) if self._is_wanted(index):
                self._num_calls += 1
                call_id = f"call_{uuid.uuid4().hex[:24]}"
                function: FunctionDelta = {"name": name, "arguments": ""}
                return self._call({"index": index, "id": call_id, "type": "function", "function": function})
            case ArgumentsDelta(index, text) if self._is_wanted(index):
                return self._call({"index": index, "function": {"arguments": text}})
            case _:
                return None

    def _call(self, call: ToolCallDelta) -> ChatDelta:
        """Return a step of a call in the form of the request's tools."""
        return {"function_call": call["function"]} if self._is_legacy else {"tool_calls": [call]}

    def _is_wanted(self, index: int) -> bool:
        return index == 0 or (self._tools is not None and self._tools.parallel)


def joined(deltas: Sequence[Delta]) -> ChatMessage:
    """Join the steps to the whole message; its content is null if calls are all there is, or could be."""
    texts: list[str] = []
    can_be_null = False
    reasoning = ""
    calls: list[MessageToolCall] = []
    legacy: CalledFunction | None = None
    for delta in deltas:
        fields = delta.fields
        if "content" in fields:
            can_be_null = can_be_null or fields["content"] is None
            texts.append(fields["content"] or "")
        reasoning += fields.get("reasoning_content", "")
        for part in fields.get("tool_calls", ()):
            if "id" in part:
                calls.append({"id": part["id"], "type": "function", "function": {"name": "", "arguments": ""}})
            _extend(calls[-1]["function"], part["function"])
        if "function_call" in fields:
            legacy = legacy or {"name": "", "arguments": ""}
            _extend(legacy, fields["function_call"])
    text = "".join(texts)
    content = None if not text and (can_be_null or calls or legacy) else text
    message: ChatMessage = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
    if calls:
        message["tool_calls"] = calls
    if legacy is not None:
        message["function_call"] = legacy
    if reasoning:
        message["reasoning_content"] = reasoning
    return message


def _extend(function: CalledFunction, delta: FunctionDelta) -> None:
    function["name"] += delta.get("name", "")
    function["arguments"] += delta.get("arguments", "")


def _parser_for(tools: ToolUse | None) -> ToolCallParser | None:
    if tools is None:
        return None
    name = GENERIC if tools.reads_generic_form else tools.format
    parser = make_parser(name, [as_tool(f) for f in tools.functions])
    is_generic = tools.reads_generic_form
    markers = {marker(tool.name, is_generic=is_generic): tool.name for tool in grammar_tools(tools.functions)}
    return RawCallParser(parser, markers) if markers else parser
