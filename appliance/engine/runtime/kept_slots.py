"""Idle conversations on the disk: one bounded folder, from which a loaded model goes on without reading prompts again.

Slots are written when a model's thread ends, by an unload or an orderly stop, and read before it starts. A file that
cannot be used is removed with one line in the log, and its conversation reads its prompt again.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.engine.engine import Engine
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.slot_file import KeptSlot, KeptState, SlotFileError, from_bytes, to_parts
from appliance.engine.slots import IdleSlot
from appliance.host.files import make_folder

_LOGGER = logging.getLogger(__name__)

_SUFFIX, _UNFINISHED = ".slot", ".new-"
_LEAST_TOKENS = 64  # fewer are read again as fast
_HEADER_OF_TOKEN, _HEADER_OF_ARRAY = 12, 512  # bytes, at most
_FREE_BYTES = 256 << 20  # of the disk, left to the rest of the system


@dataclass(frozen=True, slots=True)
class KeptFolder:
    """The folder of all models' idle conversations, and the most bytes of its files.

    `owners` returns the cache keys whose conversations may be kept, any at all without it.
    """

    path: Path
    limit_bytes: int
    owners: Callable[[], Collection[str]] | None = None

    def may_keep(self, cache_key: str) -> bool:
        """Return True if the owner of a conversation is still there."""
        return self.owners is None or cache_key in self.owners()


class KeptSlots:
    """The idle conversations of one model; used by its thread, or before that starts."""

    def __init__(self, folder: KeptFolder, *, name: str, model: str) -> None:
        """Keep slots of the model `name`; `model` tells its weights and the form in which they are computed."""
        self._folder = folder
        self._own = folder.path / name
        self._model = model

    def restore(self, engine: Engine, runner: OrtModelRunner) -> None:
        """Fill empty slots with the conversations that were used last."""
        slots: list[KeptSlot] = []
        for unfinished in self._own.glob(f"{_UNFINISHED}*"):
            unfinished.unlink(missing_ok=True)
        for path in _by_age(self._own)[::-1]:
            if len(slots) == runner.num_slots:
                break
            try:
                slots.append(self._read(path, runner))
            except (SlotFileError, OSError) as err:
                _LOGGER.warning("The conversation kept in %s is ignored: %s", path, err)
                path.unlink(missing_ok=True)
        for slot in reversed(slots):
            lengths = [kept.num_tokens for kept in slot.checkpoints]
            adopted = engine.slots.adopt(slot.cache_key, slot.tokens, lengths)
            if adopted is not None:
                _fill(runner, adopted, slot)
        if slots:
            _LOGGER.info("%d conversations with %s go on from the disk", len(slots), self._own.name)

    def save(self, engine: Engine, runner: OrtModelRunner) -> None:
        """Write the idle slots, and remove what was written before; the oldest files make room."""
        try:
            make_folder(self._own)
            for path in _by_age(self._own):
                path.unlink(missing_ok=True)
            slots = self._chosen(engine, runner)
            self._make_room(sum(_num_bytes(slot) for slot in slots))
            for slot in slots:
                self._write(slot)
        except OSError as err:
            _LOGGER.warning("Idle conversations with %s are not kept: %s", self._own.name, err)

    def _chosen(self, engine: Engine, runner: OrtModelRunner) -> list[KeptSlot]:
        """Return the slots to write, as many as fit of those that were used last; the oldest first."""
        chosen: list[KeptSlot] = []
        room = self._folder.limit_bytes
        for idle in reversed(engine.slots.idle_slots()):
            is_wanted = len(idle.tokens) >= _LEAST_TOKENS and self._folder.may_keep(idle.cache_key)
            slot = _kept(runner, idle, self._model) if is_wanted else None
            if slot is not None and _num_bytes(slot) <= room:
                chosen.append(slot)
                room -= _num_bytes(slot)
        return chosen[::-1]

    def _read(self, path: Path, runner: OrtModelRunner) -> KeptSlot:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > self._folder.limit_bytes:
                raise SlotFileError("it is larger than all of them may be")
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if path.stat().st_size else b""
        slot = from_bytes(memoryview(data), self._model)
        _check(slot, runner)
        if not self._folder.may_keep(slot.cache_key):
            raise SlotFileError("its key was revoked")
        return slot

    def _write(self, slot: KeptSlot) -> None:
        tokens = np.array(slot.tokens, np.int64).tobytes()
        name = hashlib.blake2b(slot.cache_key.encode() + b"\n" + tokens, digest_size=16).hexdigest()
        fd, temporary = tempfile.mkstemp(dir=self._own, prefix=_UNFINISHED)  # mode 0600
        try:
            with os.fdopen(fd, "wb") as file:
                for part in to_parts(slot):
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self._own / f"{name}{_SUFFIX}")
        finally:
            Path(temporary).unlink(missing_ok=True)

    def _make_room(self, num_bytes: int) -> None:
        """Remove the oldest files of other models until the folder has room for those of this one."""
        others = [path for path in _by_age(self._folder.path, "*/*") if path.parent != self._own]
        sizes = {path: path.stat().st_size for path in others}
        total = num_bytes + sum(sizes.values())
        for path in others:
            if total <= self._folder.limit_bytes:
                break
            path.unlink(missing_ok=True)
            total -= sizes[path]
        needed = num_bytes + _FREE_BYTES
        if shutil.disk_usage(self._folder.path).free < needed:
            raise OSError(f"the disk has less than {needed >> 20} MiB free")


def remove_all(folder: Path) -> None:
    """Remove all idle conversations."""
    shutil.rmtree(folder, ignore_errors=True)


def _by_age(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the files, the oldest first."""
    return sorted(folder.glob(f"{pattern}{_SUFFIX}"), key=lambda path: (path.stat().st_mtime_ns, path.name))


def _kept(runner: OrtModelRunner, idle: IdleSlot, model: str) -> KeptSlot | None:
    arrays = runner.slot_arrays(idle.index, len(idle.tokens))
    if arrays is None:
        return None
    checkpoints = tuple(KeptState(c.num_tokens, runner.place_arrays(c.place)) for c in idle.checkpoints)
    return KeptSlot(model, idle.cache_key, idle.tokens, arrays, checkpoints)


def _num_bytes(slot: KeptSlot) -> int:
    """Return the size of a slot's file, or a little more."""
    groups = [slot.arrays, *(kept.arrays for kept in slot.checkpoints)]
    arrays = sum(array.nbytes + _HEADER_OF_ARRAY for group in groups for array in group.values())
    return arrays + _HEADER_OF_TOKEN * len(slot.tokens) + _HEADER_OF_ARRAY + 6 * len(slot.cache_key)


def _check(slot: KeptSlot, runner: OrtModelRunner) -> None:
    """Refuse a slot that does not fit this model."""
    num_tokens = len(slot.tokens)
    if not 0 < num_tokens <= runner.capacity or max(slot.tokens) >= runner.vocab_size:
        raise SlotFileError(f"its {num_tokens} tokens do not fit a slot of {runner.capacity}")
    lengths = [kept.num_tokens for kept in slot.checkpoints]
    if lengths != sorted(set(lengths)) or any(not 0 < length <= num_tokens for length in lengths):
        raise SlotFileError("its checkpoints are not within its tokens")
    expected = runner.slot_arrays(0, num_tokens)
    if expected is None:
        raise SlotFileError("this model's slots are not in this process's memory")
    _check_arrays(slot.arrays, expected)
    for kept in slot.checkpoints:
        _check_arrays(kept.arrays, runner.state_arrays())


def _check_arrays(found: Mapping[str, NDArray[np.generic]], expected: Mapping[str, NDArray[np.generic]]) -> None:
    forms = [{name: (array.dtype, array.shape) for name, array in group.items()} for group in (found, expected)]
    if forms[0] != forms[1]:
        raise SlotFileError("its arrays are not those of this model")


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
