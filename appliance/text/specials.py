"""Special tokens' texts inside of strings: where they are spelled; pure, shared by the tokenizer and the template."""

from __future__ import annotations

import re
from collections.abc import Iterable


class SpecialSpellings:
    """Finds texts of special tokens, and the strings that could become one when something is put beside them."""

    def __init__(self, texts: Iterable[str]) -> None:
        longest_first = sorted({text for text in texts if text}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._heads = frozenset(text[:n] for text in longest_first for n in range(1, len(text)))
        self._tails = frozenset(text[n:] for text in longest_first for n in range(1, len(text)))
        self._all = "\0".join(longest_first)
        self._max_part = max(map(len, longest_first), default=1) - 1

    def occurs_in(self, text: str) -> bool:
        """Tell if a whole special token is spelled in the text."""
        return self._pattern.search(text) is not None

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return the spans of spelled special tokens, leftmost and longest first, as the tokenizer matches them."""
        return [match.span() for match in self._pattern.finditer(text)]

    def wrap(self, text: str, before: str, after: str) -> str:
        """Put every spelled special token between two marks."""
        return self._pattern.sub(lambda match: before + match[0] + after, text)

    def may_finish(self, text: str) -> bool:
        """Tell if a special token could begin before this text and end in it."""
        return any(text[:n] in self._tails for n in range(1, min(len(text), self._max_part) + 1))

    def may_begin(self, text: str) -> bool:
        """Tell if a special token could begin in this text and end after it."""
        return any(text[-n:] in self._heads for n in range(1, min(len(text), self._max_part) + 1))

    def may_be_inside(self, text: str) -> bool:
        """Tell if the whole text is a piece of a special token."""
        return 0 < len(text) <= self._max_part and text in self._all
