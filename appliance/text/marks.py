"""Keeps track of what a user wrote while a template rearranges it; pure, one instance for one rendering.

Strings that spell a special token, or could complete one beside other text, get invisible marks before rendering;
afterwards the marks are taken out again and tell which spellings are the user's. Other strings are left as they are,
so a template sees what it would see without us, but for the marks.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence

from appliance.errors import InvalidRequestError
from appliance.text.prompt import RenderedPrompt
from appliance.text.specials import SpecialSpellings

# Code points that no text should hold (Unicode 23.7) come first, private ones where a user sends all of those.
_CANDIDATES = (range(0xFDD0, 0xFDF0), range(0xE000, 0xF900), range(0xF0000, 0xFFFFE))
_NUM_MARKS = 3

# What the protocol or JSON Schema itself says, which templates compare with; a template may well write `<|` + role.
_PROTOCOL_WORDS = frozenset(
    re.findall(
        r"\w+",
        """role content name type text function tool tools user assistant system developer arguments parameters
        properties description required enum items string number integer boolean array object null id tool_calls
        tool_call_id title default format anyOf additionalProperties reasoning reasoning_content""",
    )
)


class UserMarks:
    """Marks the strings of one request and resolves them in its rendering."""

    def __init__(self, spellings: SpecialSpellings, source: str, *values: object) -> None:
        """Choose marks that occur neither in the template's source nor in any string of the values."""
        self._spellings = spellings
        self._source = source
        strings = [text for value in values for text in _strings(value)]
        self._is_needed = any(self._is_risky(text) for text in strings)
        self.characters = ""
        if self._is_needed:
            used = set(source).union(*strings)
            self._before, self._after, self._edge = _unused_characters(used)
            self.characters = self._before + self._after + self._edge

    def mark(self, value: object) -> object:
        """Return the value with its risky strings marked, keys included; the same object if nothing is risky."""
        return self._marked(value) if self._is_needed else value

    def resolve(self, rendered: str) -> RenderedPrompt:
        """Take the marks out and tell which spellings of special tokens hold characters of a user."""
        if not self._is_needed:
            return RenderedPrompt(rendered)
        positions: dict[str, list[int]] = {self._before: [], self._after: [], self._edge: []}
        pieces: list[str] = []
        start = length = 0
        for match in re.finditer(f"[{self.characters}]", rendered):
            pieces.append(rendered[start : match.start()])
            length += match.start() - start
            positions[match[0]].append(length)
            start = match.end()
        pieces.append(rendered[start:])
        text = "".join(pieces)
        befores, afters = set(positions[self._before]), set(positions[self._after])
        inner = sorted(at for places in positions.values() for at in places)
        spans = tuple(
            (first, end)
            for first, end in self._spellings.spans(text)
            if first in befores or end in afters or _any_between(inner, first, end)
        )
        return RenderedPrompt(text, spans)

    def _is_risky(self, text: str) -> bool:
        core = text.strip()
        return self._spellings.occurs_in(text) or self._wants_head(core) or self._spellings.may_begin(core)

    def _wants_head(self, core: str) -> bool:
        if core in _PROTOCOL_WORDS:
            return False
        if self._spellings.may_finish(core):
            return True
        return self._spellings.may_be_inside(core) and not self._is_compared(core)

    def _is_compared(self, core: str) -> bool:
        """Tell if the template knows the string and so may compare with it: a mark would make them differ."""
        return f"'{core}'" in self._source or f'"{core}"' in self._source

    def _marked(self, value: object) -> object:
        if isinstance(value, str):
            return self._marked_text(value)
        if isinstance(value, Mapping):
            return {self._marked(key): self._marked(item) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self._marked(item) for item in value]
        return value

    def _marked_text(self, text: str) -> str:
        core = text.strip()
        if not core:
            return text
        head, tail = text[: text.index(core)], text[text.index(core) + len(core) :]
        first = self._edge if self._wants_head(core) else ""
        last = self._edge if self._spellings.may_begin(core) else ""
        return head + first + self._spellings.wrap(core, self._before, self._after) + last + tail


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from _strings(item)


def _unused_characters(used: set[str]) -> tuple[str, str, str]:
    free = (chr(code) for codes in _CANDIDATES for code in codes if chr(code) not in used)
    found = [character for character, _ in zip(free, range(_NUM_MARKS), strict=False)]
    if len(found) < _NUM_MARKS:
        raise InvalidRequestError("the messages use every private character of Unicode; leave some out")
    return found[0], found[1], found[2]


def _any_between(positions: list[int], start: int, end: int) -> bool:
    index = bisect_right(positions, start)
    return index < len(positions) and positions[index] < end
