"""The seam to conversations that lost their slot: kept elsewhere, and back in a slot when they go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from appliance.engine.slots import IdleSlot
from appliance.engine.types import Request


@dataclass(frozen=True, slots=True)
class Conversation:
    """The tokens of one owner's slot, and the lengths at which its states were kept."""

    cache_key: str
    tokens: tuple[int, ...]
    lengths: tuple[int, ...] = ()


class Archive(Protocol):
    """A place for idle slots that another conversation takes; used by the engine thread, which it never holds up."""

    def keep(self, slot: IdleSlot) -> None:
        """Copy a slot whose tokens are about to be overwritten."""

    def is_reading(self, request: Request, num_here: int) -> bool:
        """Return True while a longer beginning of a prompt than the `num_here` tokens in a slot is on its way."""

    def arrived(self, request_id: str) -> Conversation | None:
        """Return what was read for a request, once."""

    def fill(self, slot: IdleSlot) -> None:
        """Copy what `arrived` returned last into a slot that was adopted for it."""

    def forget(self, request_id: str) -> None:
        """Drop what was read for a request that has left."""

    def wait(self) -> None:
        """Sleep a moment, or until something was read."""
