"""`lantern update`: send a device a signed update; it installs it, tries it, and goes back where it is not healthy."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

from appliance.errors import ConfigError, LanternError
from appliance.remote.session import OpenDevice, open_device

_PATH = "/admin/update"
_PIECE_BYTES = 4 << 20
_INTERVAL_S = 3.0


class UpdateFailedError(LanternError):
    """The device refused the update, or went back to what it ran before."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(dest="update_verb", required=True, metavar="VERB")
    push = verbs.add_parser("push", help="send an update, and wait until the device runs it")
    push.add_argument("bundle", type=Path, help="lantern-VERSION-BOARD.raucb")
    push.add_argument("--no-wait", action="store_true", help="do not wait for the installation")
    push.add_argument("--timeout", type=float, default=1800.0, metavar="S", help="how long to wait (default 1800)")
    show = verbs.add_parser("show", help="the version that a device runs, and what became of its last update")
    for verb in (push, show):
        verb.add_argument("--to", metavar="DEVICE", help="name, id or URL (default: the only one found)")
        verb.add_argument("--key", help="an administration key (default: LANTERN_API_KEY, or the keyring)")


def run(args: argparse.Namespace) -> int:
    """Do it.

    Raises:
        ConfigError: the file cannot be read.
        DiscoveryError: the device is not there.
        UpdateFailedError: the device refused, or fell back.
    """
    return asyncio.run(_push(args) if args.update_verb == "push" else _show(args))


async def _show(args: argparse.Namespace) -> int:
    async with open_device(args.to, key=args.key) as device:
        state = await _ask(device, "GET")
    print(f"{device.target.name} runs {state['running']}")
    if state["version"]:
        print(f"Last update: {state['version']}, {state['step'].replace('_', ' ')}. {state['detail']}".rstrip())
    return 0


async def _push(args: argparse.Namespace) -> int:
    try:
        size_bytes, digest = await asyncio.to_thread(_measure, args.bundle)
    except OSError as err:
        raise ConfigError(f"{args.bundle} cannot be read: {err.strerror}.") from err
    async with open_device(args.to, key=args.key) as device:
        before = await _ask(device, "POST", json={"size_bytes": size_bytes})
        print(f"{device.target.name} runs {before['running']}; sending {size_bytes / 1e6:.0f} MB")
        await _send(device, args.bundle, size_bytes)
        await _ask(device, "PATCH", json={"sha256": digest})
    if args.no_wait:
        print("It is being installed; `lantern update show` tells how that goes.")
        return 0
    print("Installing; the device restarts when that is done.")
    state = await _settled(args)
    if state["step"] != "done":
        raise UpdateFailedError(f"The update was not kept: {state['detail']}.")
    print(f"{state['running']} runs, and is healthy.")
    return 0


async def _settled(args: argparse.Namespace) -> dict[str, Any]:
    """What the device says once it is done; while it restarts it is away, speaks no TLS, or answers nothing yet.

    Raises:
        UpdateFailedError: it had nothing certain to say in time.
    """
    end_s = time.monotonic() + args.timeout
    said = ""
    while time.monotonic() < end_s:
        await asyncio.sleep(_INTERVAL_S)
        try:
            async with open_device(args.to, key=args.key) as device:
                state = await _ask(device, "GET")
        except LanternError as err:
            said = err.message
        except (aiohttp.ClientError, OSError, TimeoutError) as err:
            said = str(err)
        else:
            if state["step"] in {"done", "refused", "fell_back"}:
                return state
            said = f"{state['running']} runs, the update is {state['step'].replace('_', ' ')}"
    raise UpdateFailedError(f"Nothing certain after {args.timeout:.0f} s, at last: {said}. See `lantern update show`.")


async def _send(device: OpenDevice, bundle: Path, size_bytes: int) -> None:
    sent = 0
    with bundle.open("rb") as file:
        while data := await asyncio.to_thread(file.read, _PIECE_BYTES):
            last = sent + len(data) - 1
            headers = {"Content-Range": f"bytes {sent}-{last}/{size_bytes}", "Content-Type": "application/octet-stream"}
            await _ask(device, "PUT", data=data, headers=headers)
            sent += len(data)
            if sys.stderr.isatty():
                print(f"\r{100 * sent // size_bytes:3} %", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r     \r", end="", file=sys.stderr)


async def _ask(device: OpenDevice, method: str, **options: Any) -> dict[str, Any]:
    async with device.session.request(method, _PATH, **options) as response:
        body: dict[str, Any] = await response.json(content_type=None)
        if response.status >= 400:
            raise UpdateFailedError(str(body.get("error", {}).get("message", f"HTTP {response.status}")))
        return body


def _measure(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
