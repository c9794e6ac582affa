"""`lantern restart`: start a device's appliance again; running answers get some seconds to finish."""

from __future__ import annotations

import argparse
import asyncio

from appliance.cli.administered import running_device
from appliance.cli.selection import add_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_device(parser, "this machine")


def run(args: argparse.Namespace) -> int:
    """Restart it.

    Raises:
        DeviceError: it started a moment ago, or the key does not administer.
        DiscoveryError: no server runs here, or there is no such device.
    """
    asyncio.run(_run(args.device))
    return 0


async def _run(name: str | None) -> None:
    async with running_device(name) as device:
        await device.restart()
    print("It restarts. See how it does with: lantern discover")
