"""Events of a model's text: ordinary text, and calls of tools in pieces. Frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Ordinary text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call begins; calls are counted from 0 and never overlap."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """A piece of a call's arguments; the pieces joined are one JSON text, unless the model broke off or wrote none."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """A call is over."""

    index: int


Event = TextDelta | CallStart | ArgumentsDelta | CallEnd


class ToolCallParser(Protocol):
    """Reads one stream; owned by whoever reads that stream. Nothing that a model writes makes it raise."""

    def push(self, text: str) -> list[Event]:
        """Take the next text, cut anywhere; give what is certain now."""
        ...

    def finish(self) -> list[Event]:
        """Give what was held back, and end a call that was broken off."""
        ...
