"""The administration of this machine's own models where no server runs: the same methods as over the network.

Works on the store itself, under its lock. What a service then finds belongs to the user that it runs as.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from appliance.bundle import BundleStore, TrustedKeys
from appliance.bundle.signing import read_public_key
from appliance.files import give_tree
from appliance.home import Home
from appliance.host.memory import available_bytes
from appliance.install.installer import Installer
from appliance.models.loaded import EngineSettings

Answer = dict[str, Any]
T = TypeVar("T")


class DirectAdministration:
    """One home; methods run in threads and may be called on any event loop."""

    def __init__(self, home: Home, settings: EngineSettings) -> None:
        self._home = home
        self._store = BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys))
        self._installer = Installer(self._store, settings)

    async def overview(self) -> Answer:
        """What is installed and free."""
        return await asyncio.to_thread(self._overview)

    async def install(self, path: Path, on_progress: Callable[[int, int], None] = lambda _done, _all: None) -> Answer:
        """Install a bundle's folder or an archive of one."""
        bundle = await self._change(lambda: self._installer.install_file(path))
        on_progress(bundle.manifest.size_bytes, bundle.manifest.size_bytes)
        return {"state": "installed", "installed": bundle.name, **await self.overview()}

    async def remove(self, model: str) -> Answer:
        """Uninstall a model."""
        await self._change(lambda: self._installer.remove(model))
        return await self.overview()

    async def rollback(self, model: str) -> Answer:
        """Let the version before serve."""
        await self._change(lambda: self._installer.rollback(model))
        return await self.overview()

    async def aliases(self) -> dict[str, str]:
        """Those that were given by command or from afar."""
        return await asyncio.to_thread(self._store.aliases.all)

    async def set_alias(self, alias: str, model: str) -> None:
        """Let an alias stand for a model."""
        await self._change(lambda: self._installer.set_alias(alias, model))

    async def remove_alias(self, alias: str) -> None:
        """Forget an alias."""
        await self._change(lambda: self._installer.remove_alias(alias))

    async def trusted(self) -> list[str]:
        """The ids of the keys whose bundles run here."""
        return sorted(await asyncio.to_thread(self._store.trusted.all))

    async def trust(self, pem: bytes) -> str:
        """Run what this key signed; gives the key's id."""
        public = read_public_key(pem)
        return await asyncio.to_thread(TrustedKeys.add, self._home.trusted_keys, public)

    async def distrust(self, signer: str) -> None:
        """Run nothing more that this key signed."""
        await asyncio.to_thread(TrustedKeys.remove, self._home.trusted_keys, signer)

    async def _change(self, function: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(function)
        finally:
            if self._home.bundles.is_dir():
                await asyncio.to_thread(give_tree, self._home.bundles, self._home.root)

    def _overview(self) -> Answer:
        aliases = self._store.aliases.all()
        root = self._store.root
        return {
            "models": [
                {
                    **model.to_json(),
                    "loaded": False,
                    "aliases": sorted(a for a, name in aliases.items() if name == model.name),
                    "problem": model.problem,
                }
                for model in self._installer.list()
            ],
            "storage": {"free_bytes": shutil.disk_usage(root).free if root.is_dir() else None},
            "memory": {"free_bytes": available_bytes(), "models_bytes": 0},
        }
