"""An update of the whole system on its way in: received in pieces, checked, and handed to the root that installs it.

The service may write only its own folder, so it leaves the finished file there; a unit of the image waits for it
(lantern-update.path), checks signature and version, installs it, and says below /run what became of it. Methods block.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from appliance.errors import ConflictError, InvalidRequestError, UnavailableError
from appliance.files import sync_folder

MAX_BYTES = 1 << 30  # a slot's size
_MARGIN_BYTES = 64 << 20
_STATE = Path("/run/lantern/update.json")
_VERSION = Path("/usr/lib/lantern/version")


class StorageFullError(UnavailableError):
    """No room for the update; nothing was written."""

    status = 507
    code = "insufficient_storage"


class IncomingUpdate:
    """The one update that may be on its way; `state` and `version` are what the image shows of itself."""

    def __init__(self, folder: Path, *, state: Path = _STATE, version: Path = _VERSION) -> None:
        self._folder = folder
        self._state = state
        self._version = version

    @property
    def ready(self) -> Path:
        """Where the installing unit looks for it."""
        return self._folder / "ready.raucb"

    @property
    def _partial(self) -> Path:
        return self._folder / "incoming"

    def describe(self) -> dict[str, Any]:
        """The running version, what became of the last update, and how much of the next is there.

        Raises:
            UnavailableError: this machine was not started from an image.
        """
        running = self._running()
        try:
            last = json.loads(self._state.read_bytes()[:65536])
        except (OSError, ValueError):
            last = {}
        step = "waiting" if self.ready.exists() and last.get("step") != "installing" else last.get("step", "none")
        told = {name: str(last.get(name, "")) for name in ("version", "detail", "failed")}
        return {"object": "update", "running": running, "step": step, **told, "received": self.received()}

    def received(self) -> int:
        """Bytes that are there."""
        try:
            return self._partial.stat().st_size
        except FileNotFoundError:
            return 0

    def begin(self, size_bytes: int) -> None:
        """Make room, forgetting what was there.

        Raises:
            InvalidRequestError: larger than any update.
            ConflictError: one is being installed.
            StorageFullError: it does not fit.
            UnavailableError: this machine was not started from an image.
        """
        self._running()
        if size_bytes > MAX_BYTES:
            raise InvalidRequestError(f"An update has at most {MAX_BYTES} bytes, not {size_bytes}.")
        if self.ready.exists():
            raise ConflictError("An update is being installed; wait until it is done.")
        self._partial.unlink(missing_ok=True)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(self._folder).free
        if free_bytes < size_bytes + _MARGIN_BYTES:
            raise StorageFullError(f"The update needs {size_bytes >> 20} MiB, and {free_bytes >> 20} MiB are free.")
        self._partial.touch(mode=0o600)

    def write(self, offset: int, data: bytes) -> int:
        """Append, and return where it ends.

        Raises:
            InvalidRequestError: more than any update has.
            ConflictError: none was begun, or it does not begin where the last piece ended.
            UnavailableError: this machine was not started from an image.
        """
        self._check_begun()
        if offset != self.received():
            raise ConflictError(f"{self.received()} bytes are there, so the next piece begins there, not at {offset}.")
        if offset + len(data) > MAX_BYTES:
            raise InvalidRequestError(f"An update has at most {MAX_BYTES} bytes.")
        with self._partial.open("ab") as file:
            file.write(data)
        return offset + len(data)

    def finish(self, sha256: str) -> None:
        """Hand it over, whole and durable.

        Raises:
            InvalidRequestError: it is not what was sent; it is forgotten.
            ConflictError: none was begun.
            UnavailableError: this machine was not started from an image.
        """
        self._check_begun()
        with self._partial.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256:
                self._partial.unlink()
                raise InvalidRequestError(f"What came has the sum {found[:12]}, not {sha256[:12]}; send it again.")
            os.fsync(file.fileno())
        self._partial.rename(self.ready)
        sync_folder(self._folder)

    def _check_begun(self) -> None:
        self._running()
        if not self._partial.exists():
            raise ConflictError("No update was begun; say first how large it is.")

    def _running(self) -> str:
        try:
            return self._version.read_text("utf-8").strip()
        except OSError as err:
            raise UnavailableError(
                "This device was not started from an image, so it is updated as it was installed: with its package."
            ) from err
