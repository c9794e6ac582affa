"""The time of each key's last use, kept over restarts: read at the start, written seldom, for the sake of the card."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from appliance.access.keyring import KeyRing
from appliance.background import Lifetime, run_in_background
from appliance.host.files import write_atomically

_LOGGER = logging.getLogger(__name__)

_MAX_BYTES = 1 << 20


class KeyUsage(Lifetime):
    """The file that remembers the last use of each key while it lives; owned by the event loop."""

    def __init__(self, path: Path, ring: KeyRing, *, interval_s: float = 900.0) -> None:
        self._path = path
        self._ring = ring
        self._interval_s = interval_s
        self._written: dict[str, int] = {}

    async def _live(self) -> AsyncIterator[None]:
        self._written = await asyncio.to_thread(read_last_use, self._path)
        self._ring.remember_use(self._written)
        async with run_in_background(self._write_now_and_then(), name="key-usage"):
            try:
                yield
            finally:
                await self._write()

    async def _write_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._write()

    async def _write(self) -> None:
        """Write the file if a key was used since; a disk that takes nothing costs only the memory of it."""
        ids = self._ring.key_ids
        used = {key_id: at_s for key_id, at_s in self._ring.last_used_s().items() if key_id in ids}
        if used == self._written:
            return
        try:
            await asyncio.to_thread(write_atomically, self._path, json.dumps(used, sort_keys=True).encode())
        except OSError as err:
            _LOGGER.warning("the last use of keys cannot be written: %s", err.strerror)
            return
        self._written = used


def read_last_use(path: Path) -> dict[str, int]:
    """Return key id to seconds since 1970; empty if the file is absent or damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(path.read_bytes()[:_MAX_BYTES])
        if isinstance(found, dict):
            return {key: at_s for key, at_s in found.items() if type(at_s) is int and at_s >= 0}
    return {}
