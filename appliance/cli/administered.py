"""Which device a command administers: one on the network, the server on this machine, or else this machine's files."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from appliance.config import load_config
from appliance.errors import DeviceError
from appliance.home import Home, lantern_home
from appliance.remote import Target, open_device
from appliance.remote.administration import RemoteAdministration
from appliance.remote.answers import Answer
from appliance.remote.push import Progress
from appliance.remote.session import session_to

_UNAUTHORIZED = 401


class ModelAdministration(Protocol):
    """What the commands need, over the network or not."""

    async def overview(self) -> Answer:
        """What is installed, served and free."""

    async def install(self, path: Path, on_progress: Progress = ...) -> Answer:
        """Install a bundle's folder or archive."""

    async def remove(self, model: str) -> Answer:
        """Uninstall a model."""

    async def rollback(self, model: str) -> Answer:
        """Let the version before serve."""

    async def aliases(self) -> dict[str, str]:
        """Alias to model."""

    async def set_alias(self, alias: str, model: str) -> None:
        """Let an alias stand for a model."""

    async def remove_alias(self, alias: str) -> None:
        """Forget an alias."""

    async def trusted(self) -> list[str]:
        """The ids of the keys whose bundles run there."""

    async def trust(self, pem: bytes) -> str:
        """Run what this key signed; gives the key's id."""

    async def distrust(self, signer: str) -> None:
        """Run nothing more that this key signed."""


@dataclass(frozen=True, slots=True)
class _Running:
    """The server of this home, as it wrote itself down."""

    url: str
    pin: str | None
    key: str


def add_on(parser: argparse.ArgumentParser) -> None:
    """Declare `--on`."""
    what = "a device on the network: name, host name, id or URL (default: this machine)"
    parser.add_argument("--on", metavar="DEVICE", help=what)


@contextlib.asynccontextmanager
async def administration(on: str | None) -> AsyncIterator[ModelAdministration]:
    """Whom to talk to, until the block is left.

    Raises:
        DiscoveryError: there is no such device.
        TrustError: it is not who it says it is.
    """
    if on is not None:
        async with open_device(on) as device:
            yield RemoteAdministration(device.session)
        return
    async with running_here() as running:
        if running is not None:
            yield running
        else:
            yield await asyncio.to_thread(_direct, lantern_home())


@contextlib.asynccontextmanager
async def running_here() -> AsyncIterator[RemoteAdministration | None]:
    """The server that runs on this machine, if one does, until the block is left."""
    running = await asyncio.to_thread(_running, lantern_home())
    if running is None:
        yield None
        return
    target = Target("this machine", running.url, f"{running.url}/v1", running.pin, running.key, "It runs here.")
    async with session_to(target) as session:
        remote = RemoteAdministration(session)
        yield remote if await _answers(remote) else None


async def _answers(remote: RemoteAdministration) -> bool:
    """Whether it is the server that wrote itself down: another one at its port does not take its key."""
    try:
        await remote.trusted()
    except DeviceError as err:
        if err.answered_status not in {None, _UNAUTHORIZED}:
            raise
        return False
    return True


def _running(home: Home) -> _Running | None:
    try:
        record = json.loads(home.running.read_bytes()[:4096])
        return _Running(str(record["url"]), record["pin"], str(record["key"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _direct(home: Home) -> ModelAdministration:
    """This machine's files; what this needs is imported only here, since onnxruntime is part of it."""
    from appliance.install.direct import DirectAdministration
    from appliance.models import EngineSettings

    path = home.root / "lantern.toml"
    engine = load_config(path if path.exists() else None).engine
    return DirectAdministration(home, EngineSettings(num_slots=engine.slots, context_length=engine.context_length))
