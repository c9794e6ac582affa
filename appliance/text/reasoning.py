"""Splits what a model thinks from what it says, while it comes; pure, one splitter for one stream."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.text.tool_calls.events import TextDelta

THINK, END_THINK = "<think>", "</think>"
REASONING_MARKERS = (THINK, END_THINK)


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of what the model thinks."""

    text: str


def opens_reasoning(prompt: str) -> bool:
    """Tell if a rendered prompt ends inside of reasoning, as some templates begin the answer."""
    return prompt.rstrip().endswith(THINK)


class ReasoningSplitter:
    """Reasoning is a message's first part only; tags further on are text. Blanks at its edges are dropped.

    A model whose reasoning was closed by force may close it once more: end tags right behind the first one are dropped.
    """

    def __init__(self, *, starts_inside: bool = False) -> None:
        self._is_open = starts_inside
        self._is_text = False
        self._drops_blanks = starts_inside
        self._held = ""

    def push(self, text: str) -> list[ReasoningDelta | TextDelta]:
        """Take the next text, cut anywhere; give what is certain now."""
        events: list[ReasoningDelta | TextDelta] = []
        self._held += text
        if not self._is_text and not self._is_open:
            self._look_for_opening()
        if self._is_open:
            reasoning = self._reasoning()
            if reasoning:
                events.append(ReasoningDelta(reasoning))
        if self._is_text:
            if self._drops_blanks:
                self._drop_edge()
            if self._held and not (self._drops_blanks and END_THINK.startswith(self._held)):
                self._drops_blanks = False
                events.append(TextDelta(self._held))
                self._held = ""
        return events

    def finish(self) -> list[ReasoningDelta | TextDelta]:
        """Give what was held back."""
        held, self._held = self._held, ""
        if self._is_open:
            held = held.rstrip()
            return [ReasoningDelta(held)] if held else []
        return [TextDelta(held)] if held else []

    def _drop_edge(self) -> None:
        """Drop blanks and further end tags between the reasoning and the text."""
        self._held = self._held.lstrip()
        while self._held.startswith(END_THINK):
            self._held = self._held.removeprefix(END_THINK).lstrip()

    def _look_for_opening(self) -> None:
        rest = self._held.lstrip()
        if rest.startswith(THINK):
            self._held = rest.removeprefix(THINK)
            self._is_open = self._drops_blanks = True
        elif not THINK.startswith(rest):
            self._is_text = True

    def _reasoning(self) -> str:
        """Take out of what is held what is certainly reasoning; blanks wait, since the closing tag may follow."""
        if self._drops_blanks:
            self._held = self._held.lstrip()
            self._drops_blanks = not self._held
        end = self._held.find(END_THINK)
        if end >= 0:
            text = self._held[:end].rstrip()
            self._held = self._held[end + len(END_THINK) :]
            self._is_open, self._is_text, self._drops_blanks = False, True, True
            return text
        size = next(n for n in range(len(END_THINK) - 1, -1, -1) if self._held.endswith(END_THINK[:n]))
        text = self._held[: len(self._held) - size].rstrip()
        self._held = self._held[len(text) :]
        return text
