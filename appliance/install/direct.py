"""The administration of this machine's own models while no server runs: the same methods as over the network.

Works on the store itself, under its lock. Files that it creates belong to the user that the service runs as.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from appliance.bundle import BundleStore, TrustedKeys
from appliance.bundle.signing import read_public_key
from appliance.home import Home
from appliance.host.files import chown_tree
from appliance.install.installer import Installer
from appliance.install.overview import Installation, Overview, overview_of
from appliance.models.loaded import EngineSettings

T = TypeVar("T")


class DirectAdministration:
    """The models of one home; methods run in threads and may be called on any event loop."""

    def __init__(self, home: Home, settings: EngineSettings) -> None:
        self._home = home
        self._store = BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys))
        self._installer = Installer(self._store, settings)

    async def overview(self) -> Overview:
        """Return the installed models, and the free space."""
        return await asyncio.to_thread(self._overview)

    async def install(
        self, path: Path, on_progress: Callable[[int, int], None] = lambda _done, _all: None
    ) -> Installation:
        """Install a bundle's folder or an archive of one."""
        bundle = await self._change(lambda: self._installer.install_file(path))
        on_progress(bundle.manifest.size_bytes, bundle.manifest.size_bytes)
        return {"installed": bundle.name, **await self.overview()}

    async def remove(self, model: str) -> Overview:
        """Uninstall a model."""
        await self._change(lambda: self._installer.remove(model))
        return await self.overview()

    async def rollback(self, model: str) -> Overview:
        """Activate the version before the active one."""
        await self._change(lambda: self._installer.rollback(model))
        return await self.overview()

    async def aliases(self) -> dict[str, str]:
        """Return alias to model, without those of the settings."""
        return await asyncio.to_thread(self._store.aliases.all)

    async def set_alias(self, alias: str, model: str) -> None:
        """Point an alias to an installed model."""
        await self._change(lambda: self._installer.set_alias(alias, model))

    async def remove_alias(self, alias: str) -> None:
        """Remove an alias."""
        await self._change(lambda: self._installer.remove_alias(alias))

    async def trusted(self) -> list[str]:
        """Return the ids of the signing keys whose bundles run here."""
        return sorted(await asyncio.to_thread(self._store.trusted.all))

    async def trust(self, pem: bytes) -> str:
        """Trust a signing key, and return its id."""
        return await asyncio.to_thread(self._store.trusted.add, read_public_key(pem))

    async def distrust(self, signer: str) -> None:
        """Trust a signing key no longer."""
        await asyncio.to_thread(self._store.trusted.remove, signer)

    async def _change(self, function: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(function)
        finally:
            if self._home.bundles.is_dir():
                await asyncio.to_thread(chown_tree, self._home.bundles, self._home.root)

    def _overview(self) -> Overview:
        return overview_of(self._installer.list(), self._store.root, aliases=self._store.aliases.all())
