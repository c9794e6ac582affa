"""`lantern safe-mode`: show if a device runs without its models, and end that with --leave.

A device that failed five times in five minutes loads no model and answers administration only. Remove or roll back the
model that is to blame (`lantern models`), then let it start again.
"""

from __future__ import annotations

import argparse
import asyncio

from appliance.cli.administered import running_device
from appliance.cli.selection import add_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--leave", action="store_true", help="start with the models again")
    add_device(parser, "this machine")


def run(args: argparse.Namespace) -> int:
    """Tell, or end it.

    Raises:
        DeviceError: it is not in safe mode, or the key does not administer.
        DiscoveryError: no server runs here, or there is no such device.
    """
    asyncio.run(_run(args))
    return 0


async def _run(args: argparse.Namespace) -> None:
    async with running_device(args.device) as device:
        if args.leave:
            await device.leave_safe_mode()
            print("Safe mode ends; the device starts with its models. See how it does with: lantern discover")
        elif await device.is_in_safe_mode():
            print("Safe mode: no model is loaded. When what failed is mended: lantern safe-mode --leave")
        else:
            print("It is not in safe mode.")
