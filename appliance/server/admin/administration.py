"""What the routes below /admin work on. Owned by the event loop; everything that touches the disk runs in threads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

from aiohttp import web

from appliance.bundle import Bundle
from appliance.claiming import Claiming
from appliance.errors import (
    BundleError,
    ConfigError,
    ConflictError,
    InsufficientMemoryError,
    InvalidRequestError,
    UnavailableError,
    UntrustedSignerError,
)
from appliance.install import Installer
from appliance.keystore import KeyStore
from appliance.models import ModelPool
from appliance.server.context import CONTEXT

_LOGGER = logging.getLogger(__name__)

T = TypeVar("T")


class NotTrustedError(InvalidRequestError):
    """A bundle of somebody whom nobody has said to trust."""

    status = 403


class NotInstalledError(InvalidRequestError):
    """A bundle that was looked into, and is refused; nothing has changed."""

    status = 422


class Administration:
    """The store, the keys and the claim of this device, changed by one request at a time."""

    def __init__(
        self,
        pool: ModelPool,
        installer: Installer,
        keys: KeyStore,
        claiming: Claiming,
        *,
        trusted_keys: Path,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_change` is called after the pool has seen a change of the models, and after a claim."""
        self.pool = pool
        self.installer = installer
        self.keys = keys
        self.claiming = claiming
        self.trusted_keys = trusted_keys
        self._on_change = on_change
        self._change = asyncio.Lock()
        self._pieces: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._installs: dict[str, asyncio.Task[Bundle]] = {}

    async def change(self, function: Callable[[], T]) -> T:
        """Change the store in a thread, then let the pool see it; goes on when the client leaves."""
        return await asyncio.shield(asyncio.create_task(self._changed(function)))

    def is_installing(self, upload_id: str) -> bool:
        """Whether this upload is being tried and installed."""
        return upload_id in self._installs

    async def install(self, upload_id: str) -> Bundle:
        """Install a complete upload; whoever asks for the same one meanwhile gets the same answer.

        Raises:
            ConflictError: it is not complete.
            BundleError: it is damaged, or fails its trial; what serves goes on.
        """
        if upload_id not in self._installs:
            task = asyncio.create_task(self._install(upload_id), name=f"install-{upload_id[:8]}")
            self._installs[upload_id] = task
            task.add_done_callback(lambda _: self._installs.pop(upload_id, None))
            task.add_done_callback(lambda t: t.cancelled() or t.exception())
        return await asyncio.shield(self._installs[upload_id])

    def piece_of(self, upload_id: str) -> asyncio.Lock:
        """To be held while a piece of this upload is written."""
        return self._pieces.setdefault(upload_id, asyncio.Lock())

    def tell_change(self) -> None:
        """Whoever tells others of this device looks at it again."""
        self._on_change()

    async def close(self) -> None:
        """End installs under way; each is whole or not at all, and what was sent is kept."""
        self.installer.stop()
        await asyncio.gather(*self._installs.values(), return_exceptions=True)

    async def _changed(self, function: Callable[[], T]) -> T:
        async with self._change:
            result = await asyncio.to_thread(function)
            await self._refresh()
        return result

    async def _refresh(self) -> None:
        await self.pool.refresh()
        self.tell_change()

    async def _install(self, upload_id: str) -> Bundle:
        uploads = self.installer.uploads
        async with self.piece_of(upload_id), self._change:
            upload = await asyncio.to_thread(uploads.get, upload_id)
            if missing := await asyncio.to_thread(lambda: upload.missing_bytes):
                raise ConflictError(f"{missing} bytes of {upload.manifest.name} are still to be sent")
            await self.pool.vacate(self.installer.trial_bytes(upload.manifest))
            try:
                bundle = await asyncio.to_thread(self.installer.install, upload.folder)
            except BundleError:
                await asyncio.to_thread(uploads.drop_damaged, upload)
                raise
            finally:
                await self._refresh()
        _LOGGER.info("the model %s is installed, signed by %s", bundle.name, bundle.signer)
        return bundle


def administration_of(request: web.Request) -> Administration:
    """What this server lets be administered.

    Raises:
        UnavailableError: nothing, as in a server that was put together without it.
    """
    administration = request.app[CONTEXT].administration
    if administration is None:
        raise UnavailableError("This server cannot be administered.")
    return administration


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Errors below that are our own fault elsewhere are here what is wrong with what a client sent."""
    try:
        yield
    except UntrustedSignerError as err:
        raise NotTrustedError(err.message, code=err.code) from err
    except (BundleError, InsufficientMemoryError) as err:
        raise NotInstalledError(err.message, code=err.code) from err
    except ConfigError as err:
        if err.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        raise InvalidRequestError(err.message, code="invalid_value") from err
