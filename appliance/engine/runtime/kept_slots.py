"""The folder of idle conversations: one for all models, bounded, private; files that cannot be used leave it.

A file that is ignored is removed, with one line in the log, and its conversation reads its prompt again.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.engine.archive import Conversation
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.slot_file import KeptSlot, SlotFileError, from_bytes, read_conversation, to_parts
from appliance.host.files import make_folder

_LOGGER = logging.getLogger(__name__)

_SUFFIX, _UNFINISHED = ".slot", ".new-"
_HEADER_OF_TOKEN, _HEADER_OF_ARRAY = 12, 512  # bytes, at most
_FREE_BYTES = 256 << 20  # of the disk, left to the rest of the system


@dataclass(frozen=True, slots=True)
class KeptFolder:
    """The folder of all models' idle conversations, and the most bytes of its files.

    `owners` returns the cache keys whose conversations may be kept, any at all without it. `lock` is held while a file
    is written, so that the threads of two models together stay within the bytes.
    """

    path: Path
    limit_bytes: int
    owners: Callable[[], Collection[str]] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def may_keep(self, cache_key: str) -> bool:
        """Return True if the owner of a conversation is still there."""
        return self.owners is None or cache_key in self.owners()


class KeptSlots:
    """The files of one model."""

    def __init__(self, folder: KeptFolder, *, name: str, model: str) -> None:
        """Keep slots of the model `name`; `model` tells its weights and the form in which they are computed."""
        self.folder = folder
        self.name = name
        self._own = folder.path / name
        self.model = model

    def paths(self) -> list[Path]:
        """Return the files, the one that was used last first; what a killed process was writing is removed."""
        for unfinished in self._own.glob(f"{_UNFINISHED}*"):
            unfinished.unlink(missing_ok=True)
        return _by_age(self._own)[::-1]

    def path_of(self, cache_key: str, tokens: Sequence[int]) -> Path:
        """Return the file of a conversation."""
        data = cache_key.encode() + b"\n" + np.array(tokens, np.int64).tobytes()
        return self._own / f"{hashlib.blake2b(data, digest_size=16).hexdigest()}{_SUFFIX}"

    def look(self, path: Path) -> Conversation | None:
        """Return the conversation that a file says it holds, unverified; None for one that is ignored."""
        try:
            with path.open("rb") as file:
                found = read_conversation(file, self.model)
            self._check_owner(found.cache_key)
        except (SlotFileError, OSError) as err:
            self.ignore(path, err)
            return None
        return found

    def read(self, path: Path, runner: OrtModelRunner) -> KeptSlot | None:
        """Return a file's slot, verified, its arrays mapped; None for one that is ignored."""
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size > self.folder.limit_bytes:
                    raise SlotFileError("it is larger than all of them may be")
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
            slot = from_bytes(memoryview(data), self.model)
            check(slot, runner)
            self._check_owner(slot.cache_key)
            os.utime(path)
        except (SlotFileError, OSError) as err:
            self.ignore(path, err)
            return None
        return slot

    def ignore(self, path: Path, err: Exception) -> None:
        """Remove a file that cannot be used."""
        if not isinstance(err, FileNotFoundError):  # another model's conversations needed its room
            _LOGGER.warning("The conversation kept in %s is ignored: %s", path, err)
        path.unlink(missing_ok=True)

    def write(self, slots: Sequence[KeptSlot]) -> list[Path]:
        """Write slots, the oldest first; the files that were not used for longest make room. One line if that fails."""
        paths = [self.path_of(slot.cache_key, slot.tokens) for slot in slots]
        try:
            with self.folder.lock:
                make_folder(self._own)
                self._make_room(sum(map(num_bytes, slots)), set(paths))
                for slot, path in zip(slots, paths, strict=True):
                    if path.exists():  # of the same tokens, and so of the same bytes
                        os.utime(path)
                    else:
                        self._write(slot, path)
        except OSError as err:
            _LOGGER.warning("Idle conversations with %s are not kept: %s", self.name, err)
        return paths

    def _check_owner(self, cache_key: str) -> None:
        if not self.folder.may_keep(cache_key):
            raise SlotFileError("its key was revoked")

    def _write(self, slot: KeptSlot, path: Path) -> None:
        fd, temporary = tempfile.mkstemp(dir=self._own, prefix=_UNFINISHED)  # mode 0600
        try:
            with os.fdopen(fd, "wb") as file:
                for part in to_parts(slot):
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def _make_room(self, wanted: int, spared: Collection[Path]) -> None:
        """Remove the oldest files until the folder has room for those to come."""
        others = [path for path in _by_age(self.folder.path, "*/*") if path not in spared]
        sizes = {path: path.stat().st_size for path in others}
        total = wanted + sum(sizes.values())
        for path in others:
            if total <= self.folder.limit_bytes:
                break
            path.unlink(missing_ok=True)
            total -= sizes[path]
        needed = wanted + _FREE_BYTES
        if shutil.disk_usage(self.folder.path).free < needed:
            raise OSError(f"the disk has less than {needed >> 20} MiB free")


def remove_all(folder: Path) -> None:
    """Remove all idle conversations."""
    shutil.rmtree(folder, ignore_errors=True)


def num_bytes(slot: KeptSlot) -> int:
    """Return the size of a slot's file, or a little more."""
    groups = [slot.arrays, *(kept.arrays for kept in slot.checkpoints)]
    arrays = sum(array.nbytes + _HEADER_OF_ARRAY for group in groups for array in group.values())
    return arrays + _HEADER_OF_TOKEN * len(slot.tokens) + _HEADER_OF_ARRAY + 6 * len(slot.cache_key)


def check(slot: KeptSlot, runner: OrtModelRunner) -> None:
    """Refuse a slot that does not fit this model.

    Raises:
        SlotFileError: it does not.
    """
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


def _by_age(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the files, the oldest first."""
    found = []
    for path in folder.glob(f"{pattern}{_SUFFIX}"):
        try:
            found.append((path.stat().st_mtime_ns, path.name, path))
        except FileNotFoundError:  # another model's thread made room
            continue
    return [path for *_, path in sorted(found)]
