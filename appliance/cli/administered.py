"""The device that a command administers: one on the network, the server on this machine, or this machine's files."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from appliance.access.local import read_run_file
from appliance.config import load_config
from appliance.errors import DeviceError, DiscoveryError
from appliance.home import Home, lantern_home
from appliance.remote import Target, open_device
from appliance.remote.administration import RemoteAdministration
from appliance.remote.push import Progress
from appliance.remote.session import session_to

if TYPE_CHECKING:  # it loads onnxruntime
    from appliance.install.overview import Installation, Overview

_UNAUTHORIZED = 401


class ModelAdministration(Protocol):
    """The administration of models, over the network or on this machine's files."""

    async def overview(self) -> Overview:
        """Return the installed models, and the free space."""

    async def install(self, path: Path, on_progress: Progress = ...) -> Installation:
        """Install a bundle's folder or archive."""

    async def remove(self, model: str) -> Overview:
        """Uninstall a model."""

    async def rollback(self, model: str) -> Overview:
        """Activate the version before the active one."""

    async def aliases(self) -> dict[str, str]:
        """Return alias to model."""

    async def set_alias(self, alias: str, model: str) -> None:
        """Point an alias to a model."""

    async def remove_alias(self, alias: str) -> None:
        """Remove an alias."""

    async def trusted(self) -> list[str]:
        """Return the ids of the signing keys whose bundles run there."""

    async def trust(self, pem: bytes) -> str:
        """Trust a signing key, and return its id."""

    async def distrust(self, signer: str) -> None:
        """Trust a signing key no longer."""


@contextlib.asynccontextmanager
async def administration(device_name: str | None) -> AsyncIterator[ModelAdministration]:
    """Open the administration of a device, or of this machine, until the block is left.

    Raises:
        DiscoveryError: there is no such device.
        TrustError: it is not who it says it is.
    """
    if device_name is not None:
        async with open_device(device_name) as device:
            yield RemoteAdministration(device.session)
        return
    async with running_here() as running:
        if running is not None:
            yield running
        else:
            yield await asyncio.to_thread(_direct, lantern_home())


@contextlib.asynccontextmanager
async def running_here() -> AsyncIterator[RemoteAdministration | None]:
    """Open the administration of this machine's server until the block is left; None if no server runs."""
    running = await asyncio.to_thread(read_run_file, lantern_home().running)
    if running is None:
        yield None
        return
    target = Target("this machine", running.url, f"{running.url}/v1", running.pin, running.key, "It runs here.")
    async with session_to(target) as session:
        remote = RemoteAdministration(session)
        yield remote if await _answers(remote) else None


@contextlib.asynccontextmanager
async def running_device(name: str | None) -> AsyncIterator[RemoteAdministration]:
    """Open the administration of a device, or of this machine's server, until the block is left.

    Raises:
        DiscoveryError: no server runs here, or there is no such device.
    """
    if name is not None:
        async with open_device(name) as device:
            yield RemoteAdministration(device.session)
        return
    async with running_here() as running:
        if running is None:
            raise DiscoveryError("No server runs on this machine; name a device with --device.")
        yield running


async def _answers(remote: RemoteAdministration) -> bool:
    """Return whether this server wrote the run file: another one at its port does not accept the key."""
    try:
        await remote.trusted()
    except DeviceError as err:
        if err.answered_status not in {None, _UNAUTHORIZED}:
            raise
        return False
    return True


def _direct(home: Home) -> ModelAdministration:
    """Open this machine's files; the imports stand here since they load onnxruntime."""
    from appliance.install.direct import DirectAdministration
    from appliance.models import EngineSettings

    engine = load_config(home.settings_file()).engine
    return DirectAdministration(home, EngineSettings(num_slots=engine.slots, context_length=engine.context_length))
