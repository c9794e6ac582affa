"""Which sequence has which row of the K/V cache, and what idle rows still remember. Pure: moves are returned, not made.

Decoding rows are always `[0, num_decoding)`, because a decode step runs over neighbouring rows; prompts under way and
idle rows lie behind them. A released row keeps its tokens: the next prompt with the same beginning starts there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_COMPARE = 128  # tokens compared at once


@dataclass(frozen=True, slots=True)
class RowCopy:
    """The first `num_tokens` of `source` go over those of `target`."""

    source: int
    target: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class RowSwap:
    """The first `num_tokens` of two rows change places."""

    a: int
    b: int
    num_tokens: int


RowMove = RowCopy | RowSwap


@dataclass(frozen=True, slots=True)
class Claim:
    """The prompt's first `num_cached` tokens are in the claimed row once the moves are made."""

    num_cached: int
    moves: tuple[RowMove, ...]


@dataclass(slots=True)
class _Row:
    owner: str | None = None
    cache_key: str = ""
    tokens: list[int] = field(default_factory=list)
    last_used: int = -1


class SlotPool:
    """Rows, their owners and their tokens; owned by the engine thread."""

    def __init__(self, num_rows: int) -> None:
        self._rows = [_Row() for _ in range(num_rows)]
        self._index: dict[str, int] = {}
        self._num_decoding = 0
        self._clock = 0

    @property
    def num_rows(self) -> int:
        """All rows."""
        return len(self._rows)

    @property
    def has_idle_row(self) -> bool:
        """Whether a claim can succeed."""
        return len(self._index) < len(self._rows)

    @property
    def num_decoding(self) -> int:
        """Rows of the decode step: `[0, num_decoding)`."""
        return self._num_decoding

    def row_of(self, owner: str) -> int:
        """The row that this owner has now; any call that returns moves may change it."""
        return self._index[owner]

    def decoding_owners(self) -> list[str]:
        """Owners of rows `[0, num_decoding)`, in row order."""
        owners = (row.owner for row in self._rows[: self._num_decoding])
        return [owner for owner in owners if owner is not None]

    def num_reusable(self, prompt: Sequence[int], cache_key: str) -> int:
        """Tokens at the beginning of this prompt that some row holds."""
        return self._best_source(prompt, cache_key)[1]

    def claim(self, owner: str, prompt: Sequence[int], cache_key: str) -> Claim | None:
        """Take a row for a prompt, beginning with the longest prefix that any row of the same key holds.

        At least two tokens are left to compute: a step of one token takes another attention kernel, whose last bits
        differ, and a reused prompt has to give what a fresh one gives.
        """
        idle = [i for i, row in enumerate(self._rows) if row.owner is None]
        if not idle:
            return None
        source, shared = self._best_source(prompt, cache_key)
        target, moves = self._place(source, shared, idle)
        row = self._rows[target]
        row.owner, row.cache_key, row.tokens = owner, cache_key, list(prompt[:shared])
        self._index[owner] = target
        self._touch(row)
        return Claim(shared, moves)

    def extend(self, owner: str, tokens: Iterable[int]) -> None:
        """Record that these tokens are in the owner's row now."""
        row = self._rows[self._index[owner]]
        row.tokens.extend(tokens)
        self._touch(row)

    def start_decoding(self, owner: str) -> tuple[RowMove, ...]:
        """Bring a row whose prompt is computed to the end of the decoding rows."""
        moves = self._exchange(self._index[owner], self._num_decoding)
        self._num_decoding += 1
        return moves

    def release(self, owner: str) -> tuple[RowMove, ...]:
        """Give the row back, its tokens kept for reuse, and close the hole among the decoding rows."""
        index = self._index[owner]
        moves: tuple[RowMove, ...] = ()
        if index < self._num_decoding:
            self._num_decoding -= 1
            moves = self._exchange(index, self._num_decoding)
        self._rows[self._index.pop(owner)].owner = None
        return moves

    def _touch(self, row: _Row) -> None:
        self._clock += 1
        row.last_used = self._clock

    def _best_source(self, prompt: Sequence[int], cache_key: str) -> tuple[int | None, int]:
        limit = max(0, len(prompt) - 2)
        best: int | None = None
        best_shared = 0
        for i, row in enumerate(self._rows):
            if row.cache_key == cache_key:
                shared = min(shared_prefix(row.tokens, prompt), limit)
                if shared > best_shared:
                    best, best_shared = i, shared
        return best, best_shared

    def _place(self, source: int | None, shared: int, idle: list[int]) -> tuple[int, tuple[RowMove, ...]]:
        """The row to take and how the prefix gets there: in place where that forgets less than it keeps."""
        oldest = min(idle, key=lambda i: (self._rows[i].last_used, i))
        if source is None:
            return oldest, ()
        if source in idle and (len(self._rows[source].tokens) <= 2 * shared or len(idle) == 1):
            return source, ()
        others = [i for i in idle if i != source]
        target = min(others, key=lambda i: (self._rows[i].last_used, i))
        self._touch(self._rows[source])
        return target, (RowCopy(source, target, shared),)

    def _exchange(self, a: int, b: int) -> tuple[RowMove, ...]:
        if a == b:
            return ()
        rows = self._rows
        len_a, len_b = len(rows[a].tokens), len(rows[b].tokens)
        rows[a], rows[b] = rows[b], rows[a]
        for i in (a, b):
            owner = rows[i].owner
            if owner is not None:
                self._index[owner] = i
        if not len_a and not len_b:
            return ()
        if not len_b:
            return (RowCopy(a, b, len_a),)
        if not len_a:
            return (RowCopy(b, a, len_b),)
        return (RowSwap(a, b, max(len_a, len_b)),)


def shared_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    end = min(len(a), len(b))
    start = 0
    while start < end and list(a[start : start + _COMPARE]) == list(b[start : start + _COMPARE]):
        start += _COMPARE
    start = min(start, end)
    while start < end and a[start] == b[start]:
        start += 1
    return start
