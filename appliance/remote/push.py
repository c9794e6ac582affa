"""A bundle goes to a device in pieces: resumed after a lost connection, a restart of the device or of this program."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable
from pathlib import Path

import aiohttp

from appliance.errors import BundleError, DeviceError
from appliance.remote.answers import Answer, answer_of, ask
from appliance.remote.carried import CarriedBundle, open_carried

_LOGGER = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Is told how many bytes are there, and how many there are in all."""

_PIECE_BYTES = 4 << 20
_INSTALL_TIMEOUT_S = 1800.0  # gigabytes are hashed and tried on a small board
_NOT_OURS = frozenset({408, 429, 500, 502, 503, 504})  # another time it may work
_RETRIED = frozenset({"offset_mismatch", "upload_not_found", "conflict"})


async def push(
    session: aiohttp.ClientSession,
    path: Path,
    *,
    on_progress: Progress = lambda _done, _all: None,
    piece_bytes: int = _PIECE_BYTES,
    num_tries: int = 8,
    pause_s: float = 1.0,
) -> Answer:
    """Send a bundle's folder or archive and install it; what the device serves then.

    `num_tries` counts failures in a row, without a byte of progress in between; `pause_s` doubles with each.

    Raises:
        BundleError: `path` is no bundle.
        DeviceError: the device refuses it, or cannot be reached any more.
    """
    bundle = await asyncio.to_thread(open_carried, path)
    try:
        sending = _Sending(session, bundle, on_progress, piece_bytes)
        failures = 0
        while True:
            before = sending.num_sent
            try:
                return await sending.run()
            except DeviceError as err:
                failures = 1 if sending.num_sent > before else failures + 1
                if not _is_passing(err) or failures >= num_tries:
                    raise
                _LOGGER.info("trying again: %s", err.message)
                await asyncio.sleep(err.retry_after_s or pause_s * 2 ** (failures - 1))
    finally:
        await asyncio.to_thread(bundle.close)


class _Sending:
    """One push; `num_sent` is what this program has sent so far."""

    def __init__(
        self, session: aiohttp.ClientSession, bundle: CarriedBundle, on_progress: Progress, piece_bytes: int
    ) -> None:
        self.num_sent = 0
        self._session = session
        self._bundle = bundle
        self._on_progress = on_progress
        self._piece_bytes = piece_bytes

    async def run(self) -> Answer:
        """From wherever the device is."""
        manifest, signature = await asyncio.to_thread(self._bundle.manifest)
        texts = {"manifest": manifest.decode("utf-8", "replace"), "signature": signature.decode("utf-8", "replace")}
        upload = await ask(self._session, "POST", "/admin/uploads", texts)
        if upload["state"] == "installed":
            return upload
        files = upload["files"]
        total = sum(file["size_bytes"] for file in files)
        done = sum(file["received"] for file in files)
        self._on_progress(done, total)
        for file in files:
            offset = file["received"]
            while offset < file["size_bytes"]:
                received = await self._send_piece(upload["id"], file["name"], offset, file["size_bytes"])
                done += received - offset
                self.num_sent += received - offset
                offset = received
                self._on_progress(done, total)
        path = f"/admin/uploads/{upload['id']}/install"
        return await ask(self._session, "POST", path, idle_timeout_s=_INSTALL_TIMEOUT_S)

    async def _send_piece(self, upload_id: str, name: str, offset: int, size_bytes: int) -> int:
        wanted = min(self._piece_bytes, size_bytes - offset)
        data = await asyncio.to_thread(self._bundle.piece, name, offset, wanted)
        if len(data) != wanted:
            raise BundleError(f"{name} ends before what its manifest says; build or copy the bundle again")
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"bytes {offset}-{offset + len(data) - 1}/{size_bytes}",
        }
        try:
            async with self._session.put(
                f"/admin/uploads/{upload_id}/files/{name}", data=io.BytesIO(data), headers=headers
            ) as response:
                answer = await answer_of(response)
        except (aiohttp.ClientError, TimeoutError) as err:
            raise DeviceError(f"the device did not answer: {err or type(err).__name__}") from err
        received: int = answer["received"]
        return received


def _is_passing(err: DeviceError) -> bool:
    """Whether it may be different the next time."""
    return err.answered_status is None or err.answered_status in _NOT_OURS or err.reason in _RETRIED
