"""The administration of a device: its models, trusted keys, API keys and claim, each changed in one place.

Owned by the event loop; everything that touches the disk runs in threads. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TypeVar

from appliance.access.claim import Claimant, ClaimRecord
from appliance.access.keystore import ApiKey, NewKey, Role
from appliance.access.opening import Access
from appliance.background import Lifetime
from appliance.bundle import Bundle, SignedManifest, verify_manifest
from appliance.bundle.signing import read_public_key
from appliance.install.installer import Installer
from appliance.install.overview import Overview, overview_of
from appliance.install.receiving import Receiver, UploadProgress
from appliance.install.updating import UpdateAdministration
from appliance.models import ModelPool
from appliance.system.incoming_update import IncomingUpdate

_LOGGER = logging.getLogger(__name__)

T = TypeVar("T")


class Administration(Lifetime):
    """The changes of this device. `uploads` receives bundles, `updates` receives updates of the whole system."""

    def __init__(
        self,
        pool: ModelPool,
        installer: Installer,
        access: Access,
        incoming_update: IncomingUpdate,
        *,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_change` notifies the announcer: of a claim, and of changed models once the pool knows them."""
        self._pool = pool
        self._installer = installer
        self._store = installer.store
        self._access = access
        self._on_change = on_change
        self._change = asyncio.Lock()
        self.uploads: Receiver[Bundle] = Receiver(installer.uploads, self._install)
        self.updates = UpdateAdministration(incoming_update)

    async def overview(self) -> Overview:
        """Return the installed models, and the free space."""
        pool = self._pool
        describe = partial(
            overview_of,
            root=self._store.root,
            aliases=dict(pool.aliases),
            loaded={model.bundle.digest for model in pool.loaded()},
            problems=dict(pool.damaged),
            reserved=pool.reserved_of(),
            models_bytes=pool.reserved_bytes,
        )
        return await asyncio.to_thread(lambda: describe(self._installer.list()))

    async def remove(self, model: str) -> None:
        """Uninstall a model; requests that use it finish.

        Raises:
            ModelNotFoundError: not installed.
        """
        await self._changed(partial(self._installer.remove, model))

    async def rollback(self, model: str) -> None:
        """Activate the version before the active one.

        Raises:
            ModelNotFoundError: not installed.
            BundleError: no older version, or a damaged one.
        """
        await self._changed(partial(self._installer.rollback, model))

    async def load(self, model: str) -> None:
        """Load a model into memory; goes on if the client leaves.

        Raises:
            ModelNotFoundError: not installed.
            UnavailableError: it is still being loaded, or others need the memory just now.
            InsufficientMemoryError: it does not fit into this device's memory.
            BundleError: it is damaged.
        """
        await self._pool.load(model)

    async def unload(self, model: str) -> None:
        """Unload a model that no request uses.

        Raises:
            ModelNotFoundError: not installed.
            ConflictError: requests use it.
        """
        await asyncio.shield(asyncio.create_task(self._pool.unload(model)))

    async def report(self, model: str) -> bytes:
        """Return the report of a model's measurements, a page of HTML.

        Raises:
            ModelNotFoundError: not installed, or its bundle holds no report.
            BundleError: the report is damaged.
        """
        return await asyncio.to_thread(self._installer.report, model)

    def aliases(self) -> dict[str, str]:
        """Return alias to model, of the settings and of this device."""
        return dict(self._pool.aliases)

    async def set_alias(self, alias: str, model: str) -> None:
        """Point an alias to an installed model.

        Raises:
            ModelNotFoundError: the model is not installed.
            ConfigError: the alias is not valid.
        """
        await self._changed(partial(self._installer.set_alias, alias, model))

    async def remove_alias(self, alias: str) -> None:
        """Remove an alias that was set on this device.

        Raises:
            UnknownNameError: no alias has this name.
        """
        await self._changed(partial(self._installer.remove_alias, alias))

    async def trusted(self) -> list[str]:
        """Return the ids of the signing keys whose bundles run here."""
        return sorted(await asyncio.to_thread(self._store.trusted.all))

    async def trust(self, pem: bytes) -> str:
        """Trust a signing key, and return its id.

        Raises:
            ConfigError: not a public key.
        """
        public = read_public_key(pem)
        return await self._changed(partial(self._store.trusted.add, public))

    async def distrust(self, signer: str) -> None:
        """Trust a signing key no longer, and unload the models that it signed.

        Raises:
            UnknownNameError: it was not trusted.
        """
        await self._changed(partial(self._store.trusted.remove, signer))

    @property
    def is_claimable(self) -> bool:
        """True if the settings let the device be claimed at all; a claim itself may be refused."""
        return self._access.claiming.is_enabled

    @property
    def needs_claim_code(self) -> bool:
        """True if a claim from another machine needs the code that the device shows."""
        return self._access.claiming.needs_code

    async def claim_state(self) -> tuple[bool, ClaimRecord | None]:
        """Return whether a claim would be granted now, and the latest claim."""
        claiming = self._access.claiming
        return await asyncio.to_thread(lambda: (claiming.is_open(), claiming.record()))

    async def claim(self, claimant: Claimant) -> NewKey:
        """Create the first administration key.

        Raises:
            ClaimedError: the device is claimed.
            ClaimCodeError: a client on another machine that does not know the code.
            ClaimAttemptsError: too many wrong codes within a minute.
            ConfigError: the name is not valid.
            ConflictError: the name is taken.
        """
        new = await asyncio.to_thread(self._access.claim, claimant)
        self._on_change()
        return new

    async def keys(self) -> list[ApiKey]:
        """Return the metadata of every API key."""
        return await asyncio.to_thread(self._access.store.all)

    async def create_key(self, name: str, *, role: Role, rate: int | None) -> NewKey:
        """Create an API key.

        Raises:
            ConfigError: the name or the rate is not valid.
            ConflictError: the name is taken.
        """
        return await asyncio.to_thread(self._access.create_key, name, role=role, rate=rate)

    def key_use(self) -> dict[str, int]:
        """Return the time of each used key's last request, in seconds since 1970, by the key's id."""
        return self._access.ring.last_used_s()

    async def set_rate(self, name: str, rate: int | None) -> None:
        """Give an API key another rate, in requests a minute; None for any number.

        Raises:
            UnknownNameError: no key has this name.
        """
        await asyncio.to_thread(self._access.set_rate, name, rate)

    async def revoke_key(self, name: str) -> None:
        """Revoke an API key.

        Raises:
            UnknownNameError: no key has this name.
            ConflictError: it is the last administration key.
        """
        await asyncio.to_thread(self._access.revoke_key, name)

    async def begin_upload(self, manifest: bytes, signature: bytes) -> UploadProgress | None:
        """Begin or resume the upload of a bundle; None if exactly this bundle serves and has no problem.

        Raises:
            BundleError: the manifest is not valid, or not signed by a trusted key.
            StorageFullError: it does not fit.
        """
        signed = await asyncio.to_thread(verify_manifest, manifest, signature, self._store.trusted)
        if await asyncio.to_thread(self._serves, signed):
            return None
        return await self.uploads.begin(partial(self._installer.uploads.begin, signed))

    async def _live(self) -> AsyncIterator[None]:
        """End running installs when the server stops; each is whole or not at all, and uploads are kept."""
        try:
            yield
        finally:
            self._installer.stop()
            await self.uploads.wait()
            await self.updates.uploads.wait()

    async def _changed(self, function: Callable[[], T]) -> T:
        """Change the store in a thread, then let the pool notice; goes on if the client leaves."""
        return await asyncio.shield(asyncio.create_task(self._change_alone(function)))

    async def _change_alone(self, function: Callable[[], T]) -> T:
        async with self._change:
            result = await asyncio.to_thread(function)
            await self._refresh()
        return result

    async def _refresh(self) -> None:
        await self._pool.refresh()
        self._on_change()

    def _serves(self, signed: SignedManifest) -> bool:
        return self._store.active(signed.name) == signed.digest and signed.name not in self._pool.damaged

    async def _install(self, upload_id: str) -> Bundle:
        async with self.uploads.lock(upload_id), self._change:
            upload = await asyncio.to_thread(self._installer.complete_upload, upload_id)
            await self._pool.free_memory(self._installer.trial_bytes(upload.manifest))
            try:
                bundle = await asyncio.to_thread(self._installer.install_upload, upload)
            finally:
                await self._refresh()
        _LOGGER.info("the model %s is installed, signed by %s", bundle.name, bundle.signer)
        return bundle
