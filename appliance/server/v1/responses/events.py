"""The output of a response while it is generated: steps of a chat message become items and the events about them.

One item is open at a time; a plain answer takes the items and drops the events.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from appliance.server.state.sealing import Sealer
from appliance.server.v1.chat.message import Delta
from appliance.server.v1.chat.response import TokenLogprob, ToolCallDelta
from appliance.server.v1.responses.item_answers import OutputItem
from appliance.server.v1.responses.open_items import OpenCall, OpenCustomCall, OpenItem, OpenMessage, OpenReasoning

Event = dict[str, Any]
"""An event without its sequence number."""


class Output:
    """The items of one response; owned by the handler."""

    def __init__(
        self, *, as_summary: bool, sealer: Sealer | None, custom: Mapping[str, bool] = MappingProxyType({})
    ) -> None:
        """`as_summary`: where reasoning is put. `sealer`: adds sealed reasoning.

        `custom`: the custom tools, true for those whose input comes as it is.
        """
        self._custom = custom
        self.items: list[OutputItem] = []
        self._as_summary = as_summary
        self._sealer = sealer
        self._open: OpenItem | None = None
        self._blanks = ""  # text before a message, which is opened by its first text that is not blank
        self._held: list[TokenLogprob] = []

    @property
    def has_begun(self) -> bool:
        """Return True if an item was added."""
        return self._open is not None or bool(self.items)

    def read(self, delta: Delta, logprobs: Sequence[TokenLogprob]) -> Iterator[Event]:
        """Take a step of the message; yield its events."""
        fields = delta.fields
        text = fields.get("content")
        if text and isinstance(self._open, OpenMessage) and not self._held:  # nearly every token
            yield self._about(self._open.add_text(text, logprobs))
        elif fields.get("reasoning_content"):
            yield from self._add_reasoning(fields["reasoning_content"])
        elif "tool_calls" in fields:
            for call in fields["tool_calls"]:
                yield from self._add_call(call)
        elif text is not None:
            yield from self._add_text(text, logprobs)

    def finish(self, *, is_cut: bool) -> Iterator[Event]:
        """End the open item; a completed response without any item has a message of what there is."""
        if not is_cut and self._open is None and not self.items:
            yield from self._begin(OpenMessage())
        if isinstance(self._open, OpenMessage) and (self._blanks or self._held):
            yield self._text(self._open, self._take_blanks(), [])
        yield from self._close(is_cut=is_cut)

    def _add_reasoning(self, text: str) -> Iterator[Event]:
        if not isinstance(self._open, OpenReasoning):
            yield from self._begin(OpenReasoning(as_summary=self._as_summary, sealer=self._sealer))
        assert isinstance(self._open, OpenReasoning)
        yield self._about(self._open.add(text))

    def _add_text(self, text: str, logprobs: Sequence[TokenLogprob]) -> Iterator[Event]:
        if not isinstance(self._open, OpenMessage):
            if not text or text.isspace():
                self._blanks += text
                self._held += logprobs
                return
            blanks = self._take_blanks()
            yield from self._begin(OpenMessage())
            text = blanks + text
        assert isinstance(self._open, OpenMessage)
        if text or logprobs:
            yield self._text(self._open, text, logprobs)

    def _text(self, message: OpenMessage, text: str, logprobs: Sequence[TokenLogprob]) -> Event:
        held, self._held = self._held, []
        return self._about(message.add_text(text, [*held, *logprobs]))

    def _take_blanks(self) -> str:
        blanks, self._blanks = self._blanks, ""
        return blanks

    def _add_call(self, call: ToolCallDelta) -> Iterator[Event]:
        function = call["function"]
        if "id" in call:
            self._take_blanks()
            self._held = []
            yield from self._begin(self._opened(call["id"], function.get("name", "")))
        assert self._open is not None
        if function.get("arguments") and (event := self._open.add(function["arguments"])) is not None:
            yield self._about(event)

    def _opened(self, call_id: str, name: str) -> OpenItem:
        if name in self._custom:
            return OpenCustomCall(call_id, name, is_raw=self._custom[name])
        return OpenCall(call_id, name)

    def _begin(self, item: OpenItem) -> Iterator[Event]:
        yield from self._close(is_cut=False)
        self._open = item
        yield {
            "type": "response.output_item.added",
            "output_index": len(self.items),
            "item": item.shape("in_progress", is_empty=True),
        }
        if (part := item.part_added()) is not None:
            yield self._about(part)

    def _close(self, *, is_cut: bool) -> Iterator[Event]:
        item = self._open
        if item is None:
            return
        for event in item.ends(is_cut=is_cut):
            yield self._about(event)
        done = item.shape("incomplete" if is_cut else "completed")
        yield {"type": "response.output_item.done", "output_index": len(self.items), "item": done}
        self.items.append(done)
        self._open = None

    def _about(self, event: Event) -> Event:
        """Add the place of the open item to an event about it."""
        assert self._open is not None
        event["item_id"] = self._open.id
        event["output_index"] = len(self.items)
        return event


def obfuscated(event: Event) -> Event:
    """Add random padding to a delta, so that its size does not tell the token."""
    if str(event["type"]).endswith(".delta"):
        size = -len(event["delta"]) % 16
        event["obfuscation"] = uuid.uuid4().hex[: max(size, 1)]
    return event
