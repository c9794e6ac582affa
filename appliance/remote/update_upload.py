"""An update of the whole system as it is sent to a device, also to one that runs 0.1.0."""

from __future__ import annotations

import asyncio
import hashlib
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, cast

import aiohttp

from appliance.errors import ConfigError, DeviceError
from appliance.remote.answers import UPDATE
from appliance.remote.push import Progress, push, send_piece
from appliance.remote.request import request_as, request_json

if TYPE_CHECKING:  # a client does not load the server
    from appliance.server.admin.update import UpdateState

_PATH_0_1_0 = "/admin/update"
_PIECE_BYTES = 4 << 20
_UNKNOWN_PATH = "not_found"


class UpdateFile:
    """The file of an update, with its size and its SHA-256; methods block."""

    path = "/admin/update/uploads"

    def __init__(self, path: Path) -> None:
        """Open and hash the file.

        Raises:
            ConfigError: it cannot be read.
        """
        try:
            self._file = path.open("rb")
        except OSError as err:
            raise ConfigError(f"{path} cannot be read: {err.strerror}.") from err
        self._path = path
        self.sha256 = hashlib.file_digest(self._file, "sha256").hexdigest()
        self.size_bytes = self._file.tell()

    def opening(self) -> dict[str, object]:
        """Return the body of the request that begins or resumes the upload."""
        return {"size_bytes": self.size_bytes, "sha256": self.sha256}

    def piece(self, name: str, offset: int, size_bytes: int) -> bytes:
        """Return a part of the file, which has only one name on the device.

        Raises:
            ConfigError: the file became shorter.
        """
        self._file.seek(offset)
        data = self._file.read(size_bytes)
        if len(data) != size_bytes:
            raise ConfigError(f"{self._path} changed while it was sent as {name}; send it again.")
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()


async def push_update(
    session: aiohttp.ClientSession,
    update: UpdateFile,
    *,
    on_progress: Progress = lambda _done, _all: None,
    piece_bytes: int = _PIECE_BYTES,
    num_tries: int = 8,
    pause_s: float = 1.0,
) -> UpdateState:
    """Send an update, and let the device install it; return the state of the update.

    A device that runs 0.1.0 cannot resume: it receives the update by the routes that it has.

    Raises:
        DeviceError: the device refuses it, or cannot be reached any more.
    """
    if not await _can_resume(session):
        return await _push_to_0_1_0(session, update, on_progress, piece_bytes)
    answer = await push(
        session,
        update,
        UPDATE,
        on_progress=on_progress,
        piece_bytes=piece_bytes,
        num_tries=num_tries,
        pause_s=pause_s,
    )
    return cast("UpdateState", answer)


async def _can_resume(session: aiohttp.ClientSession) -> bool:
    """Return whether the device has the routes for uploads of updates."""
    try:
        await request_json(session, "GET", UpdateFile.path)
    except DeviceError as err:
        if err.answered_status == HTTPStatus.NOT_FOUND and err.reason == _UNKNOWN_PATH:
            return False
        raise
    return True


async def _push_to_0_1_0(
    session: aiohttp.ClientSession, update: UpdateFile, on_progress: Progress, piece_bytes: int
) -> UpdateState:
    await request_json(session, "POST", _PATH_0_1_0, {"size_bytes": update.size_bytes})
    offset = 0
    on_progress(offset, update.size_bytes)
    while offset < update.size_bytes:
        num_bytes = min(piece_bytes, update.size_bytes - offset)
        data = await asyncio.to_thread(update.piece, "", offset, num_bytes)
        offset = await send_piece(session, _PATH_0_1_0, data, offset, update.size_bytes)
        on_progress(offset, update.size_bytes)
    answer = await request_as(UPDATE, session, "PATCH", _PATH_0_1_0, {"sha256": update.sha256})
    return cast("UpdateState", answer)
