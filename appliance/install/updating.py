"""The updates of the whole system that clients send: received in pieces, and handed over to the image's root side.

Owned by the event loop; everything that touches the disk runs in threads. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

from appliance.host.partial_file import PartialFile
from appliance.install.receiving import Receiver, UploadProgress
from appliance.system.incoming_update import IncomingUpdate, UpdateStatus


class UpdateAdministration:
    """The update that arrives, one at a time; `uploads` receives its pieces."""

    def __init__(self, incoming: IncomingUpdate) -> None:
        self._incoming = incoming
        self.uploads: Receiver[UpdateStatus] = Receiver(incoming, self._hand_over)

    async def begin(self, size_bytes: int, sha256: str) -> UploadProgress:
        """Begin or resume the upload of an update.

        Raises:
            ConflictError: another update is being installed.
            StorageFullError: it does not fit.
            UnavailableError: this machine was not started from an image.
        """
        return await self.uploads.begin(partial(self._incoming.begin, size_bytes, sha256))

    async def begin_unnamed(self, size_bytes: int) -> UpdateStatus:
        """Begin an update as clients of 0.1.0 do, which name its SHA-256 at the end; raises as `begin` does."""
        await asyncio.to_thread(self._incoming.begin, size_bytes)
        return await self.status()

    @contextlib.asynccontextmanager
    async def writing_unnamed(self) -> AsyncIterator[PartialFile]:
        """Hold the update that arrives while it is appended to.

        Raises:
            ConflictError: no update was begun.
        """
        async with self.uploads.lock(""):
            await asyncio.to_thread(self._incoming.check_begun)
            yield self._incoming.unnamed_file()

    async def finish_unnamed(self, sha256: str) -> UpdateStatus:
        """Let the update that arrived be installed, if this is its SHA-256.

        Raises:
            InvalidRequestError: its SHA-256 differs; the bytes are removed.
            ConflictError: no update was begun.
        """
        async with self.uploads.lock(""):
            await asyncio.to_thread(self._incoming.finish, sha256)
        return await self.status()

    async def status(self) -> UpdateStatus:
        """Return the running version, and the state of the last update.

        Raises:
            UnavailableError: this machine was not started from an image.
        """
        return await asyncio.to_thread(self._incoming.status)

    async def _hand_over(self, sha256: str) -> UpdateStatus:
        async with self.uploads.lock(sha256):
            await asyncio.to_thread(self._incoming.get, sha256)
            await asyncio.to_thread(self._incoming.finish, sha256)
        return await self.status()
