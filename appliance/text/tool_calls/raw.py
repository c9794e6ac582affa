"""Calls whose input is plain text to the end of the answer, behind a marker of its own; others are read as ever."""

from __future__ import annotations

from collections.abc import Mapping

from appliance.text.tool_calls.events import ArgumentsDelta, CallStart, Event, TextDelta, ToolCallParser


class RawCallParser:
    """A parser around that of the model's format (events.ToolCallParser)."""

    def __init__(self, inner: ToolCallParser, markers: Mapping[str, str]) -> None:
        """`markers`: the name of the tool by the text that begins its call."""
        self._inner = inner
        self._markers = markers
        self._held = ""
        self._num_calls = 0
        self._is_raw = False

    def push(self, text: str) -> list[Event]:
        """Take the next text, cut anywhere; give what is certain now."""
        if self._is_raw:
            return [ArgumentsDelta(self._num_calls, text)] if text else []
        self._held += text
        found = [(at, marker) for marker in self._markers if (at := self._held.find(marker)) >= 0]
        if found:
            at, marker = min(found)
            before, raw = self._held[:at], self._held[at + len(marker) :]
            events = [*self._counted(self._inner.push(before)), *self._counted(self._inner.finish())]
            self._held, self._is_raw = "", True
            return [*events, CallStart(self._num_calls, self._markers[marker]), *self.push(raw)]
        size = max(_overlap(self._held, marker) for marker in self._markers)
        certain, self._held = self._held[: len(self._held) - size], self._held[len(self._held) - size :]
        return self._counted(self._inner.push(certain)) if certain else []

    def finish(self) -> list[Event]:
        """Give what was held back."""
        if self._is_raw:
            return []
        held, self._held = self._held, ""
        events = self._counted(self._inner.push(held)) if held else []
        return [*events, *self._counted(self._inner.finish())]

    def _counted(self, events: list[Event]) -> list[Event]:
        self._num_calls += sum(isinstance(event, CallStart) for event in events)
        return [event for event in events if not (isinstance(event, TextDelta) and not event.text)]


def _overlap(text: str, marker: str) -> int:
    """Return the length of the longest end of the text that begins the marker."""
    most = min(len(text), len(marker) - 1)
    return next((size for size in range(most, 0, -1) if marker.startswith(text[-size:])), 0)
