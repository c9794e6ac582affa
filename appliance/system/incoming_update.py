"""An update of the whole system: received in pieces, compared with its SHA-256, handed to the unit that installs it.

The service may write only its own folder, so it leaves the complete file there. A unit of the image waits for that file
(lantern-update.path), verifies signature and version, installs it, and writes the result below /run. Methods block.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.errors import ConflictError, InvalidRequestError, StorageFullError, UnavailableError
from appliance.host.files import make_folder, sync_folder, write_atomically
from appliance.host.partial_file import PartialFile, UploadNotFoundError
from appliance.system import update_state
from appliance.system.update_state import RUNNING_VERSION, SHOWN, Step, UpdateState

MAX_BYTES = 1 << 30  # a slot's size
_MARGIN_BYTES = 64 << 20
_NAME = "update.raucb"
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


@dataclass(frozen=True, slots=True)
class UpdateStatus:
    """The state of the last update, with the version that runs, and the bytes of the next one that have arrived."""

    state: UpdateState
    received: int


@dataclass(frozen=True, slots=True)
class UpdateUpload:
    """An update of which some bytes have arrived; `id` is its SHA-256. `is_handed_over`: complete and verified."""

    id: str
    size_bytes: int
    path: Path
    is_handed_over: bool = False

    @property
    def name(self) -> str:
        """The name that the upload is told by."""
        return _NAME

    @property
    def files(self) -> tuple[PartialFile, ...]:
        """The one file."""
        return (PartialFile(_NAME, self.size_bytes, self.path),)

    def file(self, name: str) -> PartialFile:
        """Return the file of this name.

        Raises:
            UploadNotFoundError: there is no such file.
        """
        if name != _NAME:
            raise UploadNotFoundError(f"An update has one file, {_NAME}.")
        return self.files[0]


class IncomingUpdate:
    """The one update that may arrive at a time; `state` and `version` are files of the image.

    Layout below the folder: `incoming` holds the bytes that have arrived, `incoming.json` the size and the SHA-256 that
    they were begun with, `ready.raucb` is the complete file. An upload of 0.1.0 has no `incoming.json`: it tells its
    SHA-256 at the end, and cannot be resumed.
    """

    def __init__(self, folder: Path, *, state: Path = SHOWN, version: Path = RUNNING_VERSION) -> None:
        self._folder = folder
        self._state = state
        self._version = version

    @property
    def ready(self) -> Path:
        """The path at which the installing unit expects the complete file."""
        return self._folder / "ready.raucb"

    @property
    def _partial(self) -> Path:
        return self._folder / "incoming"

    @property
    def _record(self) -> Path:
        return self._folder / "incoming.json"

    def status(self) -> UpdateStatus:
        """Return the running version, the last update's state, and the bytes of the next one.

        Raises:
            UnavailableError: this machine was not started from an image.
        """
        state = replace(update_state.load(self._state), running=self._running())
        if self.ready.exists() and state.step is not Step.INSTALLING:
            state = replace(state, step=Step.WAITING)
        return UpdateStatus(state, self.unnamed_file().received())

    def begin(self, size_bytes: int, sha256: str | None = None) -> UpdateUpload:
        """Begin or resume an upload; the bytes of any other are removed. Without a SHA-256, always begin.

        Raises:
            InvalidRequestError: larger than any update.
            ConflictError: another update is being installed.
            StorageFullError: it does not fit.
            UnavailableError: this machine was not started from an image.
        """
        self._running()
        if size_bytes > MAX_BYTES:
            raise InvalidRequestError(f"An update has at most {MAX_BYTES} bytes, not {size_bytes}.")
        found = self._begun()
        is_same = found is not None and (found.id, found.size_bytes) == (sha256, size_bytes)
        if found is not None and is_same and found.is_handed_over:
            return found
        if self.ready.exists():
            raise ConflictError("An update is being installed; wait until it is done.")
        if not is_same:
            self._clear()
        make_folder(self._folder)
        missing_bytes = size_bytes - self.unnamed_file().received()
        free_bytes = shutil.disk_usage(self._folder).free
        if free_bytes < missing_bytes + _MARGIN_BYTES:
            raise StorageFullError(f"The update needs {missing_bytes >> 20} MiB, and {free_bytes >> 20} MiB are free.")
        if sha256 is not None and not is_same:
            write_atomically(self._record, json.dumps({"size_bytes": size_bytes, "sha256": sha256}).encode())
        self._partial.touch(mode=0o600)
        return UpdateUpload(sha256 or "", size_bytes, self._partial)

    def get(self, upload_id: str) -> UpdateUpload:
        """Return the upload of this id.

        Raises:
            UploadNotFoundError: it was never begun, or gave way to another one, or was installed.
            UnavailableError: this machine was not started from an image.
        """
        self._running()
        found = self._begun()
        if found is None or found.id != upload_id:
            raise UploadNotFoundError("There is no such upload; begin it (again) with its size and its SHA-256.")
        return found

    def all(self) -> list[UpdateUpload]:
        """Return the upload that was begun, if any.

        Raises:
            UnavailableError: this machine was not started from an image.
        """
        self._running()
        found = self._begun()
        return [] if found is None else [found]

    def remove(self, upload_id: str) -> None:
        """Remove an upload and free its space.

        Raises:
            UploadNotFoundError: there is no such upload.
            ConflictError: it is being installed.
        """
        if self.get(upload_id).is_handed_over:
            raise ConflictError("The update is being installed; wait until it is done.")
        self._clear()

    def unnamed_file(self) -> PartialFile:
        """Return the file of an upload whose id, and so its size, is not known yet, as a client of 0.1.0 sends it."""
        return PartialFile("the update", MAX_BYTES, self._partial)

    def finish(self, sha256: str) -> None:
        """Hand the update over, whole and durable; again for the same one, nothing changes.

        Raises:
            InvalidRequestError: its SHA-256 differs; the bytes are removed.
            ConflictError: no update was begun, or bytes are missing.
            UnavailableError: this machine was not started from an image.
        """
        self._running()
        found = self._begun()
        is_named = found is not None and found.id == sha256
        if found is not None and is_named and found.is_handed_over:
            return
        self.check_begun()
        if found is not None and is_named and (missing := found.size_bytes - found.files[0].received()):
            raise ConflictError(f"{missing} bytes of the update are still to be sent")
        with self._partial.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
            if actual != sha256:
                self._partial.unlink()
                raise InvalidRequestError(
                    f"The bytes that came have the SHA-256 {actual[:12]}, not {sha256[:12]}; send it again."
                )
            os.fsync(file.fileno())
        self._partial.rename(self.ready)
        sync_folder(self._folder)

    def check_begun(self) -> None:
        """Refuse a piece, or an end, without a beginning.

        Raises:
            ConflictError: no update was begun.
            UnavailableError: this machine was not started from an image.
        """
        self._running()
        if not self._partial.exists():
            raise ConflictError("No update was begun; send its size first.")

    def _begun(self) -> UpdateUpload | None:
        """Return the upload that `incoming.json` describes, if its bytes are here."""
        path = self._partial if self._partial.exists() else self.ready
        try:
            raw = json.loads(self._record.read_bytes()[:4096])
            sha256, size_bytes = str(raw["sha256"]), int(raw["size_bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not path.exists() or not _SHA256.match(sha256):
            return None
        return UpdateUpload(sha256, size_bytes, path, is_handed_over=path == self.ready)

    def _clear(self) -> None:
        """Remove an upload, its record last: a record never describes the bytes of another upload."""
        self._partial.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)

    def _running(self) -> str:
        try:
            return self._version.read_text("utf-8").strip()
        except OSError as err:
            raise UnavailableError(
                "This device was not started from an image, so it is updated as it was installed: with its package."
            ) from err
