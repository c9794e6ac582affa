"""An upload to a device in pieces, of a bundle or of an update of the whole system.

Resumed after a lost connection, and after a restart of the device or of this program.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable
from typing import Protocol
from urllib.parse import quote

import aiohttp

from appliance.errors import DeviceError
from appliance.remote.answers import PIECE, UPLOAD, UPLOAD_BEGUN, AnswerType, T, not_as_expected
from appliance.remote.request import address_of, answer_of, ask, lost, request_as

_LOGGER = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""A function that takes the bytes on the device, and the bytes of the whole upload."""

_PIECE_BYTES = 4 << 20
_INSTALLED = "installed"
_INSTALL_TIMEOUT_S = 1800.0  # gigabytes are hashed and tried on a small board
_TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_TRANSIENT_REASONS = frozenset({"offset_mismatch", "upload_not_found", "conflict"})


class UploadSource(Protocol):
    """The content of an upload, read in pieces; methods block."""

    @property
    def path(self) -> str:
        """The path of the device's routes for uploads of this kind."""

    def opening(self) -> dict[str, object]:
        """Return the body of the request that begins or resumes the upload."""

    def piece(self, name: str, offset: int, size_bytes: int) -> bytes:
        """Return a part of a file.

        Raises:
            BundleError: the file ends before.
        """


async def push(
    session: aiohttp.ClientSession,
    source: UploadSource,
    answer_type: AnswerType[T],
    *,
    on_progress: Progress = lambda _done, _all: None,
    piece_bytes: int = _PIECE_BYTES,
    num_tries: int = 8,
    pause_s: float = 1.0,
) -> T:
    """Send a source, and let the device install it; return the device's answer, of this type.

    `num_tries` counts failures in a row, without a byte of progress in between; `pause_s` doubles with each.

    Raises:
        DeviceError: the device refuses it, or cannot be reached any more.
    """
    sending = _Sending(session, source, on_progress, piece_bytes)
    failures = 0
    while True:
        before = sending.num_sent
        try:
            return await sending.run(answer_type)
        except DeviceError as err:
            failures = 1 if sending.num_sent > before else failures + 1
            if not _is_transient(err) or failures >= num_tries:
                raise
            _LOGGER.info("trying again: %s", err.message)
            await asyncio.sleep(err.retry_after_s or pause_s * 2 ** (failures - 1))


async def send_piece(session: aiohttp.ClientSession, path: str, data: bytes, offset: int, size_bytes: int) -> int:
    """Send one piece of a file of `size_bytes` by PUT, and return the bytes of the file that have arrived.

    Raises:
        DeviceError: refused, or lost.
    """
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Range": f"bytes {offset}-{offset + len(data) - 1}/{size_bytes}",
    }
    try:
        async with session.put(path, data=io.BytesIO(data), headers=headers) as response:
            device, answer = address_of(response), await answer_of(response)
    except (aiohttp.ClientError, TimeoutError) as err:
        raise lost(err) from err
    received = PIECE.of(answer, device=device, request=f"PUT {path}")["received"]
    if not offset < received <= size_bytes:
        raise not_as_expected(device, f"PUT {path}", f"that it has {received} bytes after a piece at {offset}")
    return received


class _Sending:
    """One push; `num_sent` counts the bytes that this program has sent."""

    def __init__(
        self, session: aiohttp.ClientSession, source: UploadSource, on_progress: Progress, piece_bytes: int
    ) -> None:
        self.num_sent = 0
        self._session = session
        self._source = source
        self._on_progress = on_progress
        self._piece_bytes = piece_bytes

    async def run(self, answer_type: AnswerType[T]) -> T:
        """Begin or resume the upload, send the missing bytes, and install."""
        opening, begin = await asyncio.to_thread(self._source.opening), f"POST {self._source.path}"
        device, answer = await ask(self._session, "POST", self._source.path, opening)
        if UPLOAD_BEGUN.of(answer, device=device, request=begin)["state"] == _INSTALLED:
            return answer_type.of(answer, device=device, request=begin)
        upload = UPLOAD.of(answer, device=device, request=begin)
        path, files = f"{self._source.path}/{quote(upload['id'], safe='')}", upload["files"]
        total = sum(file["size_bytes"] for file in files)
        done = sum(file["received"] for file in files)
        self._on_progress(done, total)
        for file in files:
            offset = file["received"]
            while offset < file["size_bytes"]:
                received = await self._send(path, file["name"], offset, file["size_bytes"])
                done += received - offset
                self.num_sent += received - offset
                offset = received
                self._on_progress(done, total)
        install = f"{path}/install"
        return await request_as(answer_type, self._session, "POST", install, idle_timeout_s=_INSTALL_TIMEOUT_S)

    async def _send(self, path: str, name: str, offset: int, size_bytes: int) -> int:
        num_bytes = min(self._piece_bytes, size_bytes - offset)
        data = await asyncio.to_thread(self._source.piece, name, offset, num_bytes)
        return await send_piece(self._session, f"{path}/files/{quote(name, safe='')}", data, offset, size_bytes)


def _is_transient(err: DeviceError) -> bool:
    """Return whether the next try may succeed."""
    return err.answered_status is None or err.answered_status in _TRANSIENT_STATUSES or err.reason in _TRANSIENT_REASONS
