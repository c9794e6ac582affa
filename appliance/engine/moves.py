"""The moves of keys, values and states between slots and places, which the engine makes before its next step."""

from __future__ import annotations

from dataclasses import dataclass


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
