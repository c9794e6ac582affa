"""The moves of keys, values and states between slots and places, which the engine makes before its next step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from appliance.engine.types import ModelRunner


@dataclass(frozen=True, slots=True)
class SlotCopy:
    """A copy of the first `num_tokens` of `source` over those of `target`."""

    source: int
    target: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class SlotSwap:
    """An exchange of the first `num_tokens` of two slots."""

    a: int
    b: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class StateKeep:
    """A copy of a slot's state to a place."""

    slot: int
    place: int


@dataclass(frozen=True, slots=True)
class StateRestore:
    """A copy of the state in a place to a slot."""

    place: int
    slot: int


SlotMove = SlotCopy | SlotSwap | StateKeep | StateRestore


def make_moves(moves: Iterable[SlotMove], runner: ModelRunner) -> None:
    """Make moves in their order."""
    for move in moves:
        match move:
            case SlotCopy(source, target, num_tokens):
                runner.copy_slot(source, target, num_tokens)
            case SlotSwap(a, b, num_tokens):
                runner.swap_slots(a, b, num_tokens)
            case StateKeep(slot, place):
                runner.keep_state(slot, place)
            case StateRestore(place, slot):
                runner.restore_state(place, slot)
