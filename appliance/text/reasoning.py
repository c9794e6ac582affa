"""Splits what a model thinks from what it says, while it comes; pure, one splitter for one stream."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.text.tool_calls.events import TextDelta


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """The texts around reasoning; a `label` that follows the opening is no part of it."""

    opening: str
    end: str
    label: str = ""

    @property
    def texts(self) -> tuple[str, str]:
        """Return the marks, which are special tokens in some vocabularies."""
        return self.opening, self.end


THINK = ReasoningMarks("<think>", "</think>")  # of most families
CHANNEL = ReasoningMarks("<|channel>", "<channel|>", "thought")  # of Gemma 4


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of what the model thinks."""

    text: str


def marks_for_template(source: str) -> ReasoningMarks | None:
    """Return the marks that a chat template speaks of; None if it speaks of none."""
    return next((marks for marks in (THINK, CHANNEL) if marks.opening in source), None)


def opens_reasoning(prompt: str, marks: ReasoningMarks) -> bool:
    """Tell if a rendered prompt ends inside of reasoning, as some templates begin the answer."""
    return prompt.rstrip().endswith(marks.opening + marks.label)


class ReasoningSplitter:
    """Reasoning is a message's first part only; tags further on are text. Blanks at its edges are dropped.

    A model whose reasoning was closed by force may close it once more: end tags right behind the first one are dropped.
    """

    def __init__(self, marks: ReasoningMarks = THINK, *, starts_inside: bool = False) -> None:
        """`starts_inside`: the prompt has opened the reasoning, its label included."""
        self._marks = marks
        self._label = "" if starts_inside else marks.label
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
            if self._held and not (self._drops_blanks and self._marks.end.startswith(self._held)):
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
        while self._held.startswith(self._marks.end):
            self._held = self._held.removeprefix(self._marks.end).lstrip()

    def _look_for_opening(self) -> None:
        rest = self._held.lstrip()
        if rest.startswith(self._marks.opening):
            self._held = rest.removeprefix(self._marks.opening)
            self._is_open = self._drops_blanks = True
        elif not self._marks.opening.startswith(rest):
            self._is_text = True

    def _reasoning(self) -> str:
        """Take out of what is held what is certainly reasoning; blanks wait, since the closing tag may follow."""
        if self._label and not self._drop_label():
            return ""
        if self._drops_blanks:
            self._held = self._held.lstrip()
            self._drops_blanks = not self._held
        tag = self._marks.end
        end = self._held.find(tag)
        if end >= 0:
            text = self._held[:end].rstrip()
            self._held = self._held[end + len(tag) :]
            self._is_open, self._is_text, self._drops_blanks = False, True, True
            return text
        size = next(n for n in range(len(tag) - 1, -1, -1) if self._held.endswith(tag[:n]))
        text = self._held[: len(self._held) - size].rstrip()
        self._held = self._held[len(text) :]
        return text

    def _drop_label(self) -> bool:
        """Drop the label behind the opening if it is there; return False as long as that is not certain."""
        if len(self._held) < len(self._label) and self._label.startswith(self._held):
            return False
        self._held = self._held.removeprefix(self._label)
        self._label = ""
        return True
