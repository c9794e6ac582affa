"""States of recurrent layers: convolution columns and matrices, one of each for a slot, whatever the slot's length.

A state stands for all tokens before it and cannot be cut back. Therefore copies of it are kept at checkpoints
(engine/checkpoints.py says where), in places behind the slots of the same arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from appliance.engine.graphs.slot_arrays import SlotArray
from appliance.engine.runtime.kv_cache import BoundSlots, reserve


class SlotState:
    """Arrays (slots + places, ...), one for each state of the graph; owned by the engine thread.

    A model with drafts has one row more, for the state behind all tokens of a verify run.
    """

    def __init__(self, arrays: Sequence[SlotArray], *, num_slots: int, num_places: int, has_drafts: bool) -> None:
        """Reserve memory, whose pages are taken only when they are written."""
        self.num_places = num_places
        self._num_slots = num_slots
        self._names = [(array.past, array.present) for array in arrays]
        self._arrays: dict[str, NDArray[np.generic]] = {
            array.past: reserve((num_slots + num_places + has_drafts, *array.shape), array.dtype) for array in arrays
        }

    def bound_slots(self, first_slot: int, num_slots: int) -> Iterator[BoundSlots]:
        """Yield the memory that a step over these slots reads and writes."""
        for past, present in self._names:
            view = self._arrays[past][first_slot : first_slot + num_slots]
            yield BoundSlots(past, present, "cpu", view.dtype, view.shape, view.ctypes.data)

    def verified_slot(self) -> Iterator[BoundSlots]:
        """Yield the memory for the state behind all tokens of a verify run."""
        return self.bound_slots(self._num_slots + self.num_places, 1)

    def take_verified(self, slot: int) -> None:
        """Set a slot to the state behind all tokens of the last verify run."""
        self.copy_slot(self._num_slots + self.num_places, slot)

    def clear(self, slot: int) -> None:
        """Set a slot to the state before the first token."""
        for array in self._arrays.values():
            array[slot] = 0

    def copy_slot(self, source: int, target: int) -> None:
        """Copy the state of one slot over another's."""
        for array in self._arrays.values():
            array[target] = array[source]

    def swap_slots(self, a: int, b: int) -> None:
        """Exchange the states of two slots."""
        for array in self._arrays.values():
            kept = array[a].copy()
            array[a] = array[b]
            array[b] = kept

    def keep(self, slot: int, place: int) -> None:
        """Copy the state of a slot to a place."""
        self.copy_slot(slot, self._num_slots + place)

    def restore(self, place: int, slot: int) -> None:
        """Copy the state of a place to a slot."""
        self.copy_slot(self._num_slots + place, slot)

    def slot(self, slot: int) -> dict[str, NDArray[np.generic]]:
        """Return views of a slot's state, by the graph's inputs."""
        return {name: array[slot] for name, array in self._arrays.items()}

    def place(self, place: int) -> dict[str, NDArray[np.generic]]:
        """Return views of the state in a place."""
        return self.slot(self._num_slots + place)
