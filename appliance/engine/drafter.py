"""Prompt lookup: what followed the last time the text read like this, as a draft of what follows now (Saxena, 2023).

A draft costs a longer step, and pays where enough of it comes true. Both are measured here: drafts that were not tried
are compared with what came all the same, so that a text which repeats nothing pays for nothing. What is drafted never
changes what is said, only how fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_NGRAM = 3  # tokens that have to agree before a place counts as a match
_MAX_MATCH = 12  # agreeing tokens beyond which more make no difference
_MIN_DRAFT = 2
_TRUST = 0.15  # weight of the newest draft in what is expected of the next one
_SMOOTHING = 0.2  # weight of the newest duration
_FIRST_SHARE = 0.35  # of a step for each token of a longer one, before anything was measured


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may follow, and how many before them agreed."""

    tokens: tuple[int, ...]
    match: int


@dataclass(slots=True)
class _History:
    """Where each n-gram of one sequence was last followed by something, and a draft that was not tried."""

    index: dict[tuple[int, ...], int] = field(default_factory=dict)
    num_indexed: int = 0
    shadow: Draft | None = None
    shadow_start: int = 0


class Drafter:
    """Drafts for the sequences of one engine; owned by its thread."""

    def __init__(self, width: int) -> None:
        """`width`: tokens that one longer step computes: one that is certain, and the draft."""
        self._width = width
        self._histories: dict[str, _History] = {}
        # A long match is believed at first, a short one has to prove itself.
        self._expected = [max(0, m - _NGRAM) / (_MAX_MATCH - _NGRAM) * (width - 1) for m in range(_MAX_MATCH + 1)]
        self._step_s = 0.0
        self._long_step_s = 0.0

    def draft(self, request_id: str, tokens: Sequence[int], room: int) -> Draft | None:
        """What may follow `tokens`, at most `room` tokens, if it is likely enough to pay."""
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
        """So much of a draft came true, in a longer step of so many seconds."""
        self._learn(draft, num_accepted)
        self._long_step_s = _smoothed(self._long_step_s, seconds)

    def stepped(self, seconds: float) -> None:
        """One token of one sequence took so many seconds."""
        self._step_s = _smoothed(self._step_s, seconds)

    def forget(self, request_id: str) -> None:
        """A request is over."""
        self._histories.pop(request_id, None)

    def _cost(self) -> float:
        """A longer step in steps."""
        if not (self._step_s and self._long_step_s):
            return 1 + _FIRST_SHARE * (self._width - 1)
        return self._long_step_s / self._step_s

    def _find(self, history: _History, tokens: Sequence[int], limit: int) -> Draft | None:
        """The most recent place with the same n-gram; indexes what is new on the way."""
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
        """Learn from a draft that was not tried, once what came instead is known."""
        shadow, start = history.shadow, history.shadow_start
        if shadow is None:
            return
        came = tokens[start : start + len(shadow.tokens)]
        num_right = num_agreeing(shadow.tokens, came)
        if num_right < len(came) or len(came) == len(shadow.tokens):
            history.shadow = None
            self._learn(shadow, num_right)

    def _learn(self, draft: Draft, num_accepted: int) -> None:
        """A short draft that came true throughout says that a long one would have, too."""
        share = num_accepted / len(draft.tokens) * (self._width - 1)
        self._expected[draft.match] += _TRUST * (share - self._expected[draft.match])


def num_agreeing(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first tokens two sequences have in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _smoothed(before: float, now: float) -> float:
    return before + _SMOOTHING * (now - before) if before else now
