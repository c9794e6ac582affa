"""A device that takes updates: the server of a machine that was started from an image, in the test's own loop."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from aiohttp.test_utils import TestServer

from appliance.access.claim import Claiming
from appliance.access.keyring import KeyRing
from appliance.access.keystore import KeyStore
from appliance.access.opening import Access
from appliance.bundle import BundleStore, TrustedKeys
from appliance.home import Home
from appliance.install import Installer
from appliance.install.administration import Administration
from appliance.models import EngineSettings, ModelPool
from appliance.server.app import make_app
from appliance.server.context import ServerContext
from appliance.server.http.guard import Guard
from appliance.system.incoming_update import IncomingUpdate

KEY = "sk-the-administrator"


@dataclass(frozen=True, slots=True)
class Updatable:
    """The device's URL, and the update that it receives."""

    url: str
    port: int
    incoming: IncomingUpdate


def incoming_update(root: Path) -> IncomingUpdate:
    """Return what a device whose files lie below `root` receives."""
    return IncomingUpdate(root / "home" / "update", state=root / "state.json", version=root / "version")


@contextlib.asynccontextmanager
async def updatable(root: Path) -> AsyncIterator[Updatable]:
    """Serve until the block is left; the files below `root` outlive that."""
    home, incoming = Home(root / "home"), incoming_update(root)
    store = BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys))
    pool = ModelPool(store, cache=home.prepacked, settings=EngineSettings(), aliases={}, on_failure=print)
    keys, ring = KeyStore(home.api_keys), KeyRing([KEY])
    access = Access(ring, keys, Claiming(keys, home.claimed, is_enabled=False), "")
    administration = Administration(pool, Installer(store, EngineSettings()), access, incoming)
    with ThreadPoolExecutor(1, thread_name_prefix="text") as threads:
        guard = Guard(host_names=[])
        context = ServerContext(pool, ring, guard, threads, started_s=0, administration=administration)
        async with TestServer(make_app(context)) as server, administration:
            yield Updatable(str(server.make_url("")), int(server.port or 0), incoming)
