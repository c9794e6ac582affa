"""`lantern update`: send a device a signed update, which it installs, tries, and leaves if it is not healthy."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from appliance.cli.selection import add_device
from appliance.cli.transfer import transfer_bar
from appliance.errors import LanternError
from appliance.remote.administration import RemoteAdministration
from appliance.remote.session import open_device
from appliance.remote.update_upload import UpdateFile

if TYPE_CHECKING:  # a client does not load the server
    from appliance.server.admin.update import UpdateState

_INTERVAL_S = 3.0


class UpdateFailedError(LanternError):
    """An update that the device refused after it was sent, or that it went back from."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(dest="update_verb", required=True, metavar="VERB")
    push = verbs.add_parser("push", help="send an update, and wait until the device runs it")
    push.add_argument("bundle", type=Path, help="lantern-VERSION-BOARD.raucb")
    push.add_argument("--no-wait", action="store_true", help="do not wait for the installation")
    push.add_argument("--timeout", type=float, default=1800.0, metavar="S", help="how long to wait (default 1800)")
    show = verbs.add_parser("show", help="the version that a device runs, and what became of its last update")
    for verb in (push, show):
        add_device(verb, "the only one found")
        verb.add_argument("--key", help="an administration key (default: LANTERN_API_KEY, or the keyring)")


def run(args: argparse.Namespace) -> int:
    """Send an update, or show the last one's state.

    Raises:
        ConfigError: the file cannot be read.
        DiscoveryError: there is no such device.
        DeviceError: the device refuses the upload, or is lost.
        UpdateFailedError: the device did not install the update, or fell back.
    """
    return asyncio.run(_push(args) if args.update_verb == "push" else _show(args))


async def _show(args: argparse.Namespace) -> int:
    async with open_device(args.device, key=args.key) as device:
        state = await RemoteAdministration(device.session).update_state()
    print(f"{device.target.name} runs {state['running']}")
    if state["version"]:
        print(f"Last update: {state['version']}, {state['step'].replace('_', ' ')}. {state['detail']}".rstrip())
    return 0


async def _push(args: argparse.Namespace) -> int:
    with contextlib.closing(await asyncio.to_thread(UpdateFile, args.bundle)) as update:
        async with open_device(args.device, key=args.key) as device:
            administration = RemoteAdministration(device.session)
            before = await administration.update_state()
            print(f"{device.target.name} runs {before['running']}; sending {update.size_bytes / 1e6:.0f} MB")
            with transfer_bar(f"Sending {args.bundle.name}", when_sent="checked there") as on_progress:
                await administration.send_update(update, on_progress)
    if args.no_wait:
        print("It is being installed; `lantern update show` tells how that goes.")
        return 0
    print("Installing; the device restarts when that is done.")
    state = await _settled(args)
    if state["step"] != "done":
        raise UpdateFailedError(f"The update was not kept: {state['detail']}.")
    print(f"{state['running']} runs, and is healthy.")
    return 0


async def _settled(args: argparse.Namespace) -> UpdateState:
    """Wait for the result of the update; while the device restarts it is away, speaks no TLS, or does not answer.

    Raises:
        UpdateFailedError: no result in time.
    """
    end_s = time.monotonic() + args.timeout
    said = ""
    while time.monotonic() < end_s:
        await asyncio.sleep(_INTERVAL_S)
        try:
            async with open_device(args.device, key=args.key) as device:
                state = await RemoteAdministration(device.session).update_state()
        except LanternError as err:
            said = err.message
        except (aiohttp.ClientError, OSError, TimeoutError) as err:
            said = str(err)
        else:
            if state["step"] in {"done", "refused", "fell_back"}:
                return state
            said = f"{state['running']} runs, the update is {state['step'].replace('_', ' ')}"
    raise UpdateFailedError(f"Nothing certain after {args.timeout:.0f} s, at last: {said}. See `lantern update show`.")
