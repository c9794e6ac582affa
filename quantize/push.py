"""The upload of a bundle from the workstation to a device, which verifies, tries and installs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from appliance.bundle.folder import read_small
from appliance.bundle.manifest import SIGNATURE_NAME
from appliance.bundle.signing import signer_of
from appliance.errors import BundleError, DeviceError
from appliance.home import Home
from appliance.remote import open_device
from appliance.remote.administration import RemoteAdministration

if TYPE_CHECKING:
    from appliance.install.overview import Installation, Overview

_UNTRUSTED = "untrusted_signer"


def push_bundle(
    folder: Path, device: str, home: Home, *, trust: bool, on_progress: Callable[[int, int], None]
) -> Installation:
    """Send a bundle's folder; `trust` first makes the device trust its signing key, as an administrator.

    Raises:
        DiscoveryError: there is no such device.
        TrustError: another device answers under its name.
        DeviceError: it refuses the bundle, or the connection was lost for too long.
    """
    return asyncio.run(_push(folder, device, home, trust=trust, on_progress=on_progress))


async def _push(
    folder: Path, device: str, home: Home, *, trust: bool, on_progress: Callable[[int, int], None]
) -> Installation:
    signer = signer_of(await asyncio.to_thread(read_small, folder, SIGNATURE_NAME))
    async with open_device(device, home=home) as opened:
        administration = RemoteAdministration(opened.session)
        if trust and signer not in await administration.trusted():
            await administration.trust(await asyncio.to_thread(_public_key, home, signer))
        try:
            return await administration.install(folder, on_progress)
        except DeviceError as err:
            if err.reason != _UNTRUSTED:
                raise
            raise DeviceError(
                f"the device does not run what the key {signer} signs; if you administer it and the key is yours, push "
                "with --trust",
                status=err.answered_status,
                reason=err.reason,
            ) from err


def served_table(answer: Overview) -> Table:
    """Return a table of the models that the device serves now."""
    table = Table("model", "kind", "MB", "digest", "problem", title="The device serves", title_justify="left")
    for model in answer["models"]:
        size_mb = f"{model.get('size_bytes', 0) / 1e6:.1f}"
        table.add_row(
            model["name"], model.get("kind", "?"), size_mb, (model["digest"] or "?")[:12], model.get("problem") or ""
        )
    return table


def _public_key(home: Home, signer: str) -> bytes:
    path = home.trusted_keys / f"{signer}.pub"
    try:
        return path.read_bytes()
    except OSError as err:
        raise BundleError(
            f"the public key {signer} is not on this machine ({path}), so it cannot be handed on"
        ) from err
