"""The checkpoints of a recurrent state: the lengths at which one is kept, and the one that gives way. Arithmetic only.

Keys and values serve any prefix of their tokens, but a recurrent state only all of them. So a prompt that shares its
beginning with a slot starts at the last checkpoint before the first token that differs. Checkpoints are

* borders: the beginning of a chat's last turn, and where two prompts were seen to part, for edited messages and other
  questions behind the same beginning; the end of each prompt, for other choices and the next turn
* the ends of runs at least `DISTANCE` tokens after the last checkpoint

The end of an answer needs none: there is the state of the slot itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

DISTANCE = 256  # tokens: the longest chunk while nothing else runs, so that a prompt is not cut for it
# Tokens before the end of a prompt: a template writes a question's end otherwise once it is history (no empty thought).
TAIL = 8
_LEAST = 32  # tokens that a border saves, or the step that is cut there costs more than it


@dataclass(eq=False, frozen=True, slots=True)
class Checkpoint:
    """The state after `num_tokens` tokens of a slot, or of several slots with the same beginning, in a place."""

    place: int
    num_tokens: int
    is_border: bool


@dataclass(frozen=True, slots=True)
class Held:
    """The checkpoints of one slot in ascending order, and the time of its last use."""

    checkpoints: Sequence[Checkpoint]
    last_used: int


def num_places(state_bytes: int, limit_bytes: int, *, num_slots: int, capacity: int) -> int:
    """Return the number of states to make room for: as many as full slots can use, within the memory for them."""
    wanted = num_slots * (capacity // DISTANCE + 2)
    return min(wanted, limit_bytes // state_bytes) if state_bytes else 0


def borders_of(num_prompt: int, num_cached: int, parting: Iterable[int]) -> list[int]:
    """Return the lengths at which runs of a prompt end; at those of `parting` other prompts part from it, or may."""
    borders: list[int] = []
    last = num_cached
    for at in sorted({*parting, num_prompt - TAIL}):
        if at - last >= _LEAST and at <= num_prompt - 2:
            borders.append(at)
            last = at
    return borders


def with_border(borders: Sequence[int], at: int) -> list[int]:
    """Return the borders with one more, unless one is near enough before it."""
    if any(0 <= at - border < _LEAST for border in borders):
        return list(borders)
    return sorted({*borders, at})


def weakest(slots: Iterable[Held]) -> Checkpoint:
    """Return the checkpoint to give up: no border, if possible; with the fewest tokens to compute anew; long unused."""
    ranks: dict[Checkpoint, tuple[int, int]] = {}
    for slot in slots:
        before = 0
        for checkpoint in slot.checkpoints:
            rank = (checkpoint.num_tokens - before, slot.last_used)
            ranks[checkpoint] = max(rank, ranks.get(checkpoint, rank))
            before = checkpoint.num_tokens
    return min(ranks, key=lambda checkpoint: (checkpoint.is_border, *ranks[checkpoint]))
