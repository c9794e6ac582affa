"""Prompt lookup (Saxena, 2023): the tokens that followed the last occurrence of an n-gram are a draft of the next ones.

A draft costs a longer step, and pays if enough of it is accepted. Both are measured here: drafts that were not tried
are compared with the tokens that came, so that a text without repetitions pays nothing. Drafts never change a
completion, only its speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_NGRAM = 3  # tokens that have to agree for a match
_MAX_MATCH = 12  # agreeing tokens beyond which more make no difference
_MIN_DRAFT = 2
_TRUST = 0.15  # weight of the newest draft in the expectation for the next one
_SMOOTHING = 0.2  # weight of the newest duration
_FIRST_SHARE = 0.35  # of a step for each token of a longer one, before anything was measured


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may follow, and the number of tokens before them that agreed."""

    tokens: tuple[int, ...]
    match: int


@dataclass(slots=True)
class _History:
    """The place after the last occurrence of each n-gram of one sequence, and a draft that was not tried."""

    index: dict[tuple[int, ...], int] = field(default_factory=dict)
    num_indexed: int = 0
    shadow: Draft | None = None
    shadow_start: int = 0


class Drafter:
    """Drafts for the sequences of one engine; owned by its thread."""

    def __init__(self, width: int) -> None:
        """Draft for longer steps of `width` tokens, which are the last sampled one and the draft."""
        self._width = width
        self._histories: dict[str, _History] = {}
        # A long match is believed at first, a short one has to prove itself.
        self._expected = [max(0, m - _NGRAM) / (_MAX_MATCH - _NGRAM) * (width - 1) for m in range(_MAX_MATCH + 1)]
        self._step_s = 0.0
        self._long_step_s = 0.0

    def draft(self, request_id: str, tokens: Sequence[int], room: int) -> Draft | None:
        """Return up to `room` tokens that may follow `tokens`, or None if a draft is not likely enough to pay."""
        history = self._histories.setdefault(request_id, _History())
        self._settle(history, tokens)
        found = self._find(history, tokens, min(room, self._width - 1))
        if found is None:
            return None
        if 1 + min(self._expected[found.match], len(found.tokens)) > self._cost():
            history.shadow = None
            return found
        if history.shadow is None:
            history.shadow, history.shadow_start = found, len(tokens)
        return None

    def tried(self, draft: Draft, num_accepted: int, seconds: float) -> None:
        """Record the accepted tokens of a draft, and the seconds of its longer step."""
        self._learn(draft, num_accepted)
        self._long_step_s = _smoothed(self._long_step_s, seconds)

    def stepped(self, seconds: float) -> None:
        """Record the seconds of a step of one token."""
        self._step_s = _smoothed(self._step_s, seconds)

    def forget(self, request_id: str) -> None:
        """Drop the history of a request that has ended."""
        self._histories.pop(request_id, None)

    def _cost(self) -> float:
        """Return the cost of a longer step, in steps of one token."""
        if not (self._step_s and self._long_step_s):
            return 1 + _FIRST_SHARE * (self._width - 1)
        return self._long_step_s / self._step_s

    def _find(self, history: _History, tokens: Sequence[int], limit: int) -> Draft | None:
        """Find the most recent occurrence of the last n-gram; index the new tokens on the way."""
        end = len(tokens)
        for i in range(max(history.num_indexed, _NGRAM), end):  # n-grams that something already follows
            history.index[tuple(tokens[i - _NGRAM : i])] = i
        history.num_indexed = end
        place = history.index.get(tuple(tokens[end - _NGRAM :]))
        if place is None or min(limit, end - place) < _MIN_DRAFT:
            return None
        match = _NGRAM
        while match < min(_MAX_MATCH, place) and tokens[place - match - 1] == tokens[end - match - 1]:
            match += 1
        return Draft(tuple(tokens[place : place + limit]), match)

    def _settle(self, history: _History, tokens: Sequence[int]) -> None:
        """Learn from a draft that was not tried, once the tokens at its place are known."""
        shadow, start = history.shadow, history.shadow_start
        if shadow is None:
            return
        came = tokens[start : start + len(shadow.tokens)]
        num_right = num_agreeing(shadow.tokens, came)
        if num_right < len(came) or len(came) == len(shadow.tokens):
            history.shadow = None
            self._learn(shadow, num_right)

    def _learn(self, draft: Draft, num_accepted: int) -> None:
        """Update the expected length for this match; a short draft that was all accepted counts like a long one."""
        share = num_accepted / len(draft.tokens) * (self._width - 1)
        self._expected[draft.match] += _TRUST * (share - self._expected[draft.match])


def num_agreeing(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the number of tokens that two sequences have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _smoothed(before: float, now: float) -> float:
    return before + _SMOOTHING * (now - before) if before else now
