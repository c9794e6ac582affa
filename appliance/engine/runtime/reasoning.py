"""The constraint of an answer that begins with reasoning: a limit of its tokens, and a grammar that holds behind it.

The place in the text is followed by the bytes of the tokens, so that the marks may be cut into tokens in any way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from appliance.engine.types import Constraint

_MAX_CHARACTER_BYTES = 4  # of UTF-8
_LEAD_BYTES = ((0xF0, 4), (0xE0, 3), (0xC0, 2))  # least value, bytes of the character


@dataclass(frozen=True, slots=True)
class ReasoningForm:
    """The reasoning of one request.

    `is_open`: the prompt has opened it, so that the answer's grammar holds behind it; otherwise from the first token.
    `budget`: the most tokens between the marks, None without a limit. `closing`: the tokens of the end mark.
    """

    opening: bytes
    end: bytes
    closing: tuple[int, ...]
    is_open: bool
    budget: int | None = None


class TokenTexts:
    """The bytes that each token shows, and the tokens in which an end mark and further text meet."""

    def __init__(self, token_bytes: Sequence[bytes], hidden: frozenset[int]) -> None:
        """Take the bytes of every id; a `hidden` token shows none unless it spells a mark."""
        self._token_bytes = token_bytes
        self._hidden = hidden
        self._crossing: dict[bytes, tuple[NDArray[np.int64], ...]] = {}

    def shown(self, token: int, marks: tuple[bytes, ...]) -> bytes:
        """Return the bytes of a token as a reader of the answer sees them."""
        text = self._token_bytes[token] if token < len(self._token_bytes) else b""
        return b"" if token in self._hidden and text not in marks else text

    def crossing(self, mark: bytes) -> tuple[NDArray[np.int64], ...]:
        """Return, for each number of the mark's bytes that have come, the tokens that end it and add more than blanks.

        Computed once for a mark; two threads that ask at the same time compute the same.
        """
        found = self._crossing.get(mark)
        if found is None:
            last = mark[-1:]
            texts = [(token, text) for token, text in enumerate(self._token_bytes) if last in text]
            found = tuple(
                np.array([token for token, text in texts if _adds_text(mark[:size] + text, mark)], np.int64)
                for size in range(len(mark))
            )
            self._crossing[mark] = found
        return found


class ReasoningConstraint:
    """The place of one sequence in its reasoning, and the constraint of what follows (engine.types.Constraint)."""

    def __init__(self, inner: Constraint | None, form: ReasoningForm, texts: TokenTexts) -> None:
        marks = form.opening, form.end
        can_close = form.end in b"".join(texts.shown(token, marks) for token in form.closing)
        self._inner = inner
        self._form = form
        self._texts = texts
        self._budget = form.budget if can_close else None  # a vocabulary without the mark's characters
        self._place: Literal["before", "inside", "behind"] = "inside" if form.is_open else "before"
        self._num_inside = 0
        self._tail = b""
        self._forced: tuple[int, ...] = ()
        self._force()

    @property
    def _holds(self) -> bool:
        """Return True if the inner constraint applies to the next token."""
        return self._inner is not None and not (self._form.is_open and self._place == "inside")

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Forbid all but the end mark once the budget is used, and what the inner constraint forbids where it holds."""
        if self._inner is not None and self._holds:
            self._inner.apply(logits)
        elif self._inner is not None:
            crossing = self._texts.crossing(self._form.end)
            logits[crossing[_num_begun(self._tail, self._form.end)]] = -np.inf
        if self._forced:
            wanted = logits[self._forced[0]]
            if np.isfinite(wanted):  # the inner constraint goes first
                logits.fill(-np.inf)
                logits[self._forced[0]] = wanted

    def accept(self, token: int) -> None:
        """Advance by a token that was sampled; blanks beside the end mark in its token are none of the inner's."""
        if self._inner is not None and self._holds:
            self._inner.accept(token)
        self._follow(token)

    def fast_forward_tokens(self) -> list[int]:
        """Return the rest of a forced end mark, then the tokens about which the inner constraint leaves no choice."""
        tokens: list[int] = []
        while self._forced and not self._holds:
            tokens.append(self._forced[0])
            self._follow(self._forced[0])
        if self._inner is not None and self._holds:
            forced = self._inner.fast_forward_tokens()
            for token in forced:
                self._follow(token)
            tokens += forced
        return tokens

    @property
    def is_complete(self) -> bool:
        """Return True if the inner constraint holds and allows no further token."""
        return self._inner is not None and self._holds and self._inner.is_complete

    @property
    def error(self) -> str | None:
        """Return the inner constraint's."""
        return self._inner.error if self._inner is not None else None

    def _follow(self, token: int) -> None:
        """Advance the place in the text."""
        if self._place == "behind":
            return
        form = self._form
        self._forced = self._forced[1:] if self._forced[:1] == (token,) else ()
        self._num_inside += self._place == "inside"
        self._tail += self._texts.shown(token, (form.opening, form.end))
        if self._place == "before":
            self._look_for_opening()
        if self._place == "inside":
            if form.end in self._tail:
                self._place, self._tail, self._forced = "behind", b"", ()
                return
            self._tail = self._tail[-max(len(form.end) - 1, _MAX_CHARACTER_BYTES) :]
            self._force()

    def _look_for_opening(self) -> None:
        text = self._tail.lstrip()
        if text.startswith(self._form.opening):
            self._place, self._tail = "inside", text.removeprefix(self._form.opening)
        elif not self._form.opening.startswith(text):
            self._place = "behind"

    def _force(self) -> None:
        """Close the reasoning if its budget is used; a character that has begun may end first."""
        budget = self._budget
        if budget is None or self._forced or self._place != "inside" or self._num_inside < budget:
            return
        if _is_within_character(self._tail) and self._num_inside < budget + _MAX_CHARACTER_BYTES - 1:
            return
        self._forced = self._form.closing


def _adds_text(text: bytes, mark: bytes) -> bool:
    _, found, rest = text.partition(mark)
    return bool(found and rest.strip())


def _num_begun(tail: bytes, mark: bytes) -> int:
    """Return the number of bytes of the mark that the tail ends with."""
    return next(size for size in range(len(mark) - 1, -1, -1) if tail.endswith(mark[:size]))


def _is_within_character(tail: bytes) -> bool:
    """Tell if the tail ends within a character of UTF-8."""
    for size in range(1, min(len(tail), _MAX_CHARACTER_BYTES - 1) + 1):
        byte = tail[-size]
        if byte >= 0xC0:
            return next(length for least, length in _LEAD_BYTES if byte >= least) > size
        if byte < 0x80:
            return False
    return False
