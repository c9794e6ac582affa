"""`lantern claim`: make a new device yours. Its certificate's pin is shown and remembered, and its first key kept."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import re
import socket
import sys

from appliance.cli.selection import add_device
from appliance.errors import ConfigError, DeviceError
from appliance.remote import OpenDevice, open_device
from appliance.remote.administration import RemoteAdministration
from appliance.remote.api_keys import remember_key

_CODE_REQUIRED = "claim_code_required"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_device(parser, "", required=True)
    parser.add_argument("--code", metavar="CODE", help="the code that the device shows (default: asked for if needed)")
    parser.add_argument("--as", dest="owner", metavar="OWNER", help="the name of the key (default: user-machine)")


def run(args: argparse.Namespace) -> int:
    """Claim it and show the key, once; a terminal is asked for the code if the device wants one.

    Raises:
        DiscoveryError: there is no such device.
        TrustError: it is not who it says it is.
        DeviceError: it is claimed already, wants HTTPS, or the code that it shows.
    """
    owner = args.owner or _default_owner()
    try:
        asyncio.run(_claim(args.device, owner, args.code))
    except DeviceError as err:
        if err.reason != _CODE_REQUIRED or args.code is not None or not sys.stdin.isatty():
            raise
        print("The device shows a code, on its screen and in claim-code.txt on its card.", file=sys.stderr)
        asyncio.run(_claim(args.device, owner, input("Code: ")))
    return 0


async def _claim(name: str, owner: str, code: str | None) -> None:
    async with open_device(name, key="") as device:
        try:
            answer = await RemoteAdministration(device.session).claim(owner, code=code)
        except DeviceError as err:
            if err.reason == _CODE_REQUIRED and device.target.pin is not None:
                print(f"Compare this fingerprint with the device's screen: {device.target.pin}", file=sys.stderr)
            raise
        key = answer["key"]
        is_kept = await asyncio.to_thread(_keep, device, key)
    target = device.target
    print(f"The device {target.name} is yours.")
    if target.pin is not None:
        print(f"Its certificate, remembered from now on: {target.pin}")
    print(f"\n{key}\n")
    kept = "It is kept in this machine's keyring, and" if is_kept else "This key for administration is not kept; it"
    print(f"{kept} cannot be shown again. Make keys for programs with: lantern keys create NAME --device {name}")


def _keep(device: OpenDevice, key: str) -> bool:
    return remember_key(device.target.identity, key)


def _default_owner() -> str:
    """Return a name of letters, digits, dots and dashes, as keys are named."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError) as err:
        raise ConfigError("This user has no name; say who claims the device with --as OWNER.") from err
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{user}-{socket.gethostname().partition('.')[0]}").strip("._-")
    return name[:64] or "owner"
