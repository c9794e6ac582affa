"""The items of an output while their text comes: each knows its events and its shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from appliance.server.state.sealing import Sealer
from appliance.server.v1.chat.response import TokenLogprob
from appliance.server.v1.responses.input_reader import InputReader
from appliance.server.v1.responses.item_answers import (
    CustomCallItem,
    FunctionCallItem,
    ItemStatus,
    OutputItem,
    OutputMessageItem,
    OutputText,
    ReasoningOutputItem,
    ReasoningText,
    SummaryText,
)
from appliance.server.v1.responses.items import new_id

Event = dict[str, Any]


class OpenMessage:
    """A message whose text comes."""

    def __init__(self) -> None:
        self.id = new_id("msg")
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []

    def part_added(self) -> Event:
        """Return the event of the part that the text goes to."""
        return {"type": "response.content_part.added", "content_index": 0, "part": _output_text("", [])}

    def add(self, text: str) -> Event:
        """Add text without log probabilities; return its event."""
        return self.add_text(text, [])

    def add_text(self, text: str, logprobs: Sequence[TokenLogprob]) -> Event:
        """Add text; return its event."""
        self._texts.append(text)
        self._logprobs += logprobs
        return {
            "type": "response.output_text.delta",
            "content_index": 0,
            "delta": text,
            "logprobs": list(logprobs),
        }

    def ends(self, *, is_cut: bool) -> Iterator[Event]:
        """Yield the events of the part's end, cut or not."""
        part = self._part()
        yield {
            "type": "response.output_text.done",
            "content_index": 0,
            "text": part["text"],
            "logprobs": part["logprobs"],
        }
        yield {"type": "response.content_part.done", "content_index": 0, "part": part}

    def shape(self, status: ItemStatus, *, is_empty: bool = False) -> OutputItem:
        """Return the item as it is now, or as it was added."""
        item: OutputMessageItem = {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [] if is_empty else [self._part()],
        }
        return item

    def _part(self) -> OutputText:
        return _output_text("".join(self._texts), self._logprobs)


class OpenReasoning:
    """Reasoning whose text comes, as text or in the place of a summary."""

    def __init__(self, *, as_summary: bool, sealer: Sealer | None) -> None:
        self.id = new_id("rs")
        self._as_summary = as_summary
        self._sealer = sealer
        self._texts: list[str] = []

    def part_added(self) -> Event:
        """Return the event of the part that the text goes to."""
        return self._event("response.reasoning_summary_part.added", "response.content_part.added", part=self._part(""))

    def add(self, text: str) -> Event:
        """Add text; return its event."""
        self._texts.append(text)
        return self._event("response.reasoning_summary_text.delta", "response.reasoning_text.delta", delta=text)

    def ends(self, *, is_cut: bool) -> Iterator[Event]:
        """Yield the events of the part's end, cut or not."""
        text = "".join(self._texts)
        yield self._event("response.reasoning_summary_text.done", "response.reasoning_text.done", text=text)
        yield self._event("response.reasoning_summary_part.done", "response.content_part.done", part=self._part(text))

    def shape(self, status: ItemStatus, *, is_empty: bool = False) -> OutputItem:
        """Return the item as it is now, or as it was added."""
        item: ReasoningOutputItem = {"id": self.id, "type": "reasoning", "summary": [], "status": status}
        if is_empty:
            return item
        text = "".join(self._texts)
        if self._as_summary:
            item["summary"] = [{"type": "summary_text", "text": text}]
        else:
            item["content"] = [{"type": "reasoning_text", "text": text}]
        if self._sealer is not None:
            item["encrypted_content"] = self._sealer.seal(text)
        return item

    def _part(self, text: str) -> SummaryText | ReasoningText:
        if self._as_summary:
            return {"type": "summary_text", "text": text}
        return {"type": "reasoning_text", "text": text}

    def _event(self, as_summary: str, as_text: str, **fields: Any) -> Event:
        if self._as_summary:
            return {"type": as_summary, "summary_index": 0, **fields}
        return {"type": as_text, "content_index": 0, **fields}


class OpenCall:
    """A call whose arguments come."""

    def __init__(self, call_id: str, name: str) -> None:
        self.id = new_id("fc")
        self._call_id = call_id
        self._name = name
        self._arguments: list[str] = []

    def part_added(self) -> None:
        """Return None: arguments are no part."""

    def add(self, text: str) -> Event:
        """Add to the arguments; return the event."""
        self._arguments.append(text)
        return {"type": "response.function_call_arguments.delta", "delta": text}

    def ends(self, *, is_cut: bool) -> Iterator[Event]:
        """Yield the events of the end; arguments that were cut have none, since clients parse them there."""
        if is_cut:
            return
        if not self._arguments:
            yield self.add("{}")
        yield {
            "type": "response.function_call_arguments.done",
            "name": self._name,
            "arguments": "".join(self._arguments),
        }

    def shape(self, status: ItemStatus, *, is_empty: bool = False) -> OutputItem:
        """Return the item as it is now, or as it was added."""
        item: FunctionCallItem = {
            "id": self.id,
            "type": "function_call",
            "call_id": self._call_id,
            "name": self._name,
            "arguments": "" if is_empty else "".join(self._arguments),
            "status": status,
        }
        return item


class OpenCustomCall:
    """A call of a custom tool whose input comes: as it is if `is_raw`, else as the JSON object that holds it."""

    def __init__(self, call_id: str, name: str, *, is_raw: bool) -> None:
        self.id = new_id("ctc")
        self._call_id = call_id
        self._name = name
        self._reader = None if is_raw else InputReader()
        self._texts: list[str] = []

    def part_added(self) -> None:
        """Return None: input is no part."""

    def add(self, text: str) -> Event | None:
        """Add to the arguments; return the event of the input that they bring, if they bring any."""
        text = self._reader.push(text) if self._reader is not None else text
        if not text:
            return None
        self._texts.append(text)
        return {"type": "response.custom_tool_call_input.delta", "delta": text}

    def ends(self, *, is_cut: bool) -> Iterator[Event]:
        """Yield the events of the end; input that was cut has none."""
        if not is_cut:
            yield {"type": "response.custom_tool_call_input.done", "input": "".join(self._texts)}

    def shape(self, status: ItemStatus, *, is_empty: bool = False) -> OutputItem:
        """Return the item as it is now, or as it was added."""
        item: CustomCallItem = {
            "id": self.id,
            "type": "custom_tool_call",
            "call_id": self._call_id,
            "name": self._name,
            "input": "" if is_empty else "".join(self._texts),
            "status": status,
        }
        return item


OpenItem = OpenMessage | OpenReasoning | OpenCall | OpenCustomCall


def _output_text(text: str, logprobs: list[TokenLogprob]) -> OutputText:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
