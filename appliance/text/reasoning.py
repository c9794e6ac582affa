"""Splits what a model thinks from what it says, while it comes; pure, one splitter for one stream."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from appliance.text.tool_calls.events import TextDelta


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """The texts around reasoning; a `label` that follows the opening is no part of it.

    `answer` and `answer_end`: the texts that some families write around what they say as well.
    """

    opening: str
    end: str
    label: str = ""
    answer: str = ""
    answer_end: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the marks, which are special tokens in some vocabularies."""
        return tuple(filter(None, (self.opening, self.end, self.answer, self.answer_end)))


THINK = ReasoningMarks("<think>", "</think>")  # of most families
CHANNEL = ReasoningMarks("<|channel>", "<channel|>", "thought")  # of Gemma 4
BRACKETS = ReasoningMarks("[THINK]", "[/THINK]")  # of Magistral and Ministral 3
RESPONSE = ReasoningMarks("<think>", "</think>", "", "<response>", "</response>")  # of Granite 3.3
PHRASES = ReasoningMarks("Here is my thought process:", "Here is my response:")  # of Granite 3.2
# The more telling ones come first.
FAMILIES = (CHANNEL, BRACKETS, PHRASES, RESPONSE, THINK)


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of what the model thinks."""

    text: str


def marks_for_template(source: str, special_tokens: Collection[str] = ()) -> ReasoningMarks | None:
    """Return the marks that a chat template speaks of, or that a vocabulary has special tokens for; None without any.

    Some templates only name the end mark, to take reasoning out of the history, and some none at all.
    """
    for marks in FAMILIES:
        is_told = marks.opening in source or marks.end in source
        if (is_told and marks.answer in source) or all(text in special_tokens for text in marks.texts):
            return marks
    return None


def opens_reasoning(prompt: str, marks: ReasoningMarks) -> bool:
    """Tell if a rendered prompt ends inside of reasoning, as some templates begin the answer."""
    return prompt.rstrip().endswith(marks.opening + marks.label)


class ReasoningSplitter:
    """Reasoning is a message's first part only; tags further on are text. Blanks at its edges are dropped.

    A model whose reasoning was closed by force may close it once more: end tags right behind the first one are dropped.
    Marks around the answer are dropped, whether reasoning came before it or not.
    """

    def __init__(self, marks: ReasoningMarks = THINK, *, starts_inside: bool = False) -> None:
        """`starts_inside`: the prompt has opened the reasoning, its label included."""
        self._marks = marks
        self._label = "" if starts_inside else marks.label
        self._is_open = starts_inside
        self._is_text = False
        self._is_marked = False  # the answer, by a mark that will end it
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
            if self._held and not (self._drops_blanks and self._may_be_edge()):
                self._drops_blanks = False
                text = self._take_text()
                events += [TextDelta(text)] if text else []
        return events

    def finish(self) -> list[ReasoningDelta | TextDelta]:
        """Give what was held back."""
        held, self._held = self._held, ""
        if self._is_open:
            held = held.rstrip()
            return [ReasoningDelta(held)] if held else []
        return [TextDelta(held)] if held else []

    def _drop_edge(self) -> None:
        """Drop blanks, further end tags and the answer's mark between the reasoning and the text."""
        answer = self._marks.answer
        while True:
            self._held = self._held.lstrip()
            if self._held.startswith(self._marks.end):
                self._held = self._held.removeprefix(self._marks.end)
            elif answer and not self._is_marked and self._held.startswith(answer):
                self._held = self._held.removeprefix(answer)
                self._is_marked = True
            else:
                return

    def _may_be_edge(self) -> bool:
        """Return True if what is held may become a mark before the text."""
        marks = [self._marks.end] if self._is_marked else [self._marks.end, self._marks.answer]
        return any(mark.startswith(self._held) for mark in marks)

    def _take_text(self) -> str:
        """Take out of what is held what is certainly text; the mark that ends a marked answer is dropped."""
        if not self._is_marked:
            text, self._held = self._held, ""
            return text
        tag = self._marks.answer_end
        before, found, after = self._held.partition(tag)
        if found:
            self._is_marked, self._held = False, ""
            return before + after
        size = _num_begun(self._held, tag)
        text = self._held[: len(self._held) - size]
        self._held = self._held[len(text) :]
        return text

    def _look_for_opening(self) -> None:
        rest = self._held.lstrip()
        answer = self._marks.answer
        if rest.startswith(self._marks.opening):
            self._held = rest.removeprefix(self._marks.opening)
            self._is_open = self._drops_blanks = True
        elif answer and rest.startswith(answer):
            self._is_text = self._drops_blanks = True
        elif not (self._marks.opening.startswith(rest) or answer.startswith(rest)):
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
        text = self._held[: len(self._held) - _num_begun(self._held, tag)].rstrip()
        self._held = self._held[len(text) :]
        return text

    def _drop_label(self) -> bool:
        """Drop the label behind the opening if it is there; return False as long as that is not certain."""
        if len(self._held) < len(self._label) and self._label.startswith(self._held):
            return False
        self._held = self._held.removeprefix(self._label)
        self._label = ""
        return True


def _num_begun(text: str, mark: str) -> int:
    """Return the number of characters of a mark, but not all, that a text ends with."""
    return next(n for n in range(len(mark) - 1, -1, -1) if text.endswith(mark[:n]))
