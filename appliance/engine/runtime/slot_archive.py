"""Conversations that have no slot, on the disk: those of an earlier process, and those whose slot another one took.

A slot that another conversation takes is copied, which takes milliseconds, and written by a thread of its own; a file
is verified by another one while the request that wants it waits and the others go on. At most one slot is written and
one is read at a time. The folder is kept_slots.py's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from appliance.engine.archive import Conversation
from appliance.engine.runtime.kept_slots import KeptSlots, num_bytes
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.slot_file import KeptSlot, KeptState
from appliance.engine.slots import IdleSlot, SlotPool, shared_prefix
from appliance.engine.types import Request

_LOGGER = logging.getLogger(__name__)

MOST_STATES = 4  # kept of a conversation within its tokens, the last ones
_LEAST_TOKENS = 64  # fewer are read again as fast
_WAIT_S = 0.05  # in which no message reaches the engine
_Result = TypeVar("_Result")


class _Job(threading.Thread, Generic[_Result]):
    """Work in a thread of its own, which ends with it."""

    def __init__(self, name: str, work: Callable[[], _Result]) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self.result: _Result | None = None
        self.start()

    def run(self) -> None:
        self.result = self._work()


class SlotArchive:
    """See archive.py; used by the engine thread of its model, or before that starts."""

    def __init__(self, kept: KeptSlots, runner: OrtModelRunner) -> None:
        self._kept = kept
        self._runner = runner
        self._known: dict[Path, Conversation] = {}
        self._writing: tuple[KeptSlot, _Job[list[Path]]] | None = None
        self._reading: tuple[str, Path, _Job[KeptSlot | None]] | None = None
        self._arrived: KeptSlot | None = None

    def restore(self, pool: SlotPool) -> None:
        """Fill empty slots with the conversations that were used last, and get to know the others."""
        slots: list[KeptSlot] = []
        for path in self._kept.paths():
            if len(slots) < pool.num_slots:
                slot = self._kept.read(path, self._runner)
                slots += [] if slot is None else [slot]
                found = None if slot is None else _conversation(slot)
            else:
                found = self._kept.look(path)
            if found is not None:
                self._known[path] = found
        for slot in reversed(slots):
            self._adopt(slot, pool)
        if self._known:
            _LOGGER.info("%d conversations with %s go on from the disk", len(self._known), self._kept.name)

    def save(self, pool: SlotPool) -> None:
        """Write the idle slots, as many as fit of those that were used last; called when the engine ends."""
        self.finish()
        chosen: list[KeptSlot] = []
        room = self._kept.folder.limit_bytes
        for idle in reversed(pool.idle_slots()):
            slot = self._copied(idle, copies=False)
            if slot is not None and num_bytes(slot) <= room:
                chosen.append(slot)
                room -= num_bytes(slot)
        self._kept.write(chosen[::-1])
        for slot in chosen:
            self._supersede(_conversation(slot))
        for path, known in self._known.items():
            if not self._kept.folder.may_keep(known.cache_key):
                path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Wait until what is being written is written."""
        if self._writing is not None:
            self._writing[1].join()
        self._settle()
        if self._reading is not None:
            self._reading[2].join()
            self._reading = None

    def keep(self, slot: IdleSlot) -> None:
        """See Archive.keep; a slot is not kept if the disk is still busy with the one before."""
        self._settle()
        path = self._kept.path_of(slot.cache_key, slot.tokens)
        if path in self._known and path.exists():
            return
        if self._writing is not None:
            _LOGGER.info("A conversation with %s is not kept: another one is still being written", self._kept.name)
            return
        copied = self._copied(slot, copies=True)
        if copied is None or num_bytes(copied) > self._kept.folder.limit_bytes:
            return
        self._writing = copied, _Job(f"keep-{self._kept.name}", lambda: self._kept.write([copied]))
        self._known[path] = _conversation(copied)

    def is_reading(self, request: Request, num_here: int) -> bool:
        """See Archive.is_reading."""
        if self._reading is not None and self._reading[0] == request.id:
            return self._reading[2].is_alive()
        path = self._best(request, num_here)
        if path is not None and self._reading is None:
            self._reading = request.id, path, _Job(f"read-{self._kept.name}", lambda: self._slot_of(path))
        return path is not None

    def arrived(self, request_id: str) -> Conversation | None:
        """See Archive.arrived."""
        if self._reading is None or self._reading[0] != request_id:
            return None
        _, path, job = self._reading
        job.join()
        self._reading, self._arrived = None, job.result
        if job.result is None:
            self._known.pop(path, None)
            return None
        return _conversation(job.result)

    def fill(self, slot: IdleSlot) -> None:
        """See Archive.fill."""
        assert self._arrived is not None
        _fill(self._runner, slot, self._arrived)
        self._arrived = None

    def forget(self, request_id: str) -> None:
        """See Archive.forget."""
        if self._reading is not None and self._reading[0] == request_id:
            self._reading = None  # its thread ends by itself

    def wait(self) -> None:
        """See Archive.wait."""
        if self._reading is not None:
            self._reading[2].join(_WAIT_S)

    def _adopt(self, slot: KeptSlot, pool: SlotPool) -> None:
        adopted = pool.adopt(slot.cache_key, slot.tokens, [kept.num_tokens for kept in slot.checkpoints])
        if adopted is not None:
            _fill(self._runner, adopted, slot)

    def _settle(self) -> None:
        """Take note of what was written."""
        if self._writing is not None and not self._writing[1].is_alive():
            self._supersede(_conversation(self._writing[0]))
            self._writing = None

    def _slot_of(self, path: Path) -> KeptSlot | None:
        """Return the slot of a file, or the one that is just being written to it; in a thread of its own."""
        writing = self._writing
        if writing is not None and path == self._kept.path_of(writing[0].cache_key, writing[0].tokens):
            return writing[0]
        return self._kept.read(path, self._runner)

    def _supersede(self, newer: Conversation) -> None:
        """Remove the files of earlier states of a conversation, all of whose tokens a written file has."""
        written = self._kept.path_of(newer.cache_key, newer.tokens)
        if not written.exists():
            self._known.pop(written, None)
            return
        for path, known in list(self._known.items()):
            is_earlier = known.cache_key == newer.cache_key and len(known.tokens) < len(newer.tokens)
            if is_earlier and newer.tokens[: len(known.tokens)] == known.tokens:
                del self._known[path]
                path.unlink(missing_ok=True)

    def _best(self, request: Request, num_here: int) -> Path | None:
        """Return the file from which a prompt goes on farthest, if that saves reading enough of it."""
        best, path = num_here + _LEAST_TOKENS - 1, None
        for known_path, known in self._known.items():
            if known.cache_key == request.cache_key and (usable := self._usable(known, request.prompt)) > best:
                best, path = usable, known_path
        return path if self._kept.folder.may_keep(request.cache_key) else None

    def _usable(self, known: Conversation, prompt: tuple[int, ...]) -> int:
        shared = min(shared_prefix(known.tokens, prompt), max(0, len(prompt) - 2))
        num_places = self._runner.num_checkpoints
        if num_places is None or shared == len(known.tokens):
            return shared
        return max((length for length in known.lengths if length <= shared and num_places), default=0)

    def _copied(self, idle: IdleSlot, *, copies: bool) -> KeptSlot | None:
        """Return a slot to write; None for one that is not worth it, or must not be."""
        if len(idle.tokens) < _LEAST_TOKENS or not self._kept.folder.may_keep(idle.cache_key):
            return None
        arrays = self._runner.slot_arrays(idle.index, len(idle.tokens))
        if arrays is None:
            return None
        last = idle.checkpoints[-MOST_STATES:]
        states = [(known.num_tokens, self._runner.place_arrays(known.place)) for known in last]
        if copies:
            arrays = {name: array.copy() for name, array in arrays.items()}
            states = [(n, {name: array.copy() for name, array in state.items()}) for n, state in states]
        kept = tuple(KeptState(n, state) for n, state in states)
        return KeptSlot(self._kept.model, idle.cache_key, idle.tokens, arrays, kept)


def _conversation(slot: KeptSlot) -> Conversation:
    return Conversation(slot.cache_key, slot.tokens, tuple(kept.num_tokens for kept in slot.checkpoints))


def _fill(runner: OrtModelRunner, adopted: IdleSlot, slot: KeptSlot) -> None:
    arrays = runner.slot_arrays(adopted.index, len(slot.tokens))
    assert arrays is not None
    _copy(slot.arrays, arrays)
    by_length = {kept.num_tokens: kept for kept in slot.checkpoints}
    for checkpoint in adopted.checkpoints:
        _copy(by_length[checkpoint.num_tokens].arrays, runner.place_arrays(checkpoint.place))


def _copy(source: Mapping[str, NDArray[np.generic]], target: Mapping[str, NDArray[np.generic]]) -> None:
    for name, array in target.items():
        array[:] = source[name]
