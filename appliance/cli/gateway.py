"""`lantern gateway`: several devices behind one address, by LiteLLM's proxy (extra `gateway`).

Finds the devices, writes LiteLLM's configuration and runs it; a device that joins is added, one that is switched off
gets no more requests. Each is reached over a relay on this machine that checks its certificate and holds its key.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import secrets
import signal
import sys
from pathlib import Path

from appliance.errors import ConfigError
from appliance.home import Home, lantern_home
from appliance.host.files import write_atomically
from appliance.remote.gateway.fleet import Fleet
from appliance.remote.gateway.front import Front
from appliance.remote.gateway.litellm import GatewayError, Supervisor, find_litellm
from appliance.remote.trust import Candidate, Standing

_LOGGER = logging.getLogger(__name__)

_RESTART_PAUSE_S = 1.0
_RETRY_S = 60.0
_SETTLE_S = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "--device", action="append", metavar="NAME", help="only these; a new one is trusted from now on (repeatable)"
    )
    who.add_argument(
        "--all", action="store_true", help="every device found, also such as nobody knows; not the default"
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=4000, help="the port (default %(default)s)")
    parser.add_argument("--litellm", metavar="PATH", help="LiteLLM's command, where it has an environment of its own")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted.

    Raises:
        ConfigError: LiteLLM is not installed, or the address cannot be used.
        DiscoveryError: this machine has no network.
        GatewayError: LiteLLM does not start.
    """
    command = find_litellm(args.litellm)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(args, command, lantern_home()))
    return 0


def wants(candidate: Candidate, names: list[str] | None, *, everyone: bool) -> bool:
    """Tell if a device is part of the fleet: named, or known, or any if all were asked for."""
    if names:
        return any(candidate.answers_to(name) for name in names)
    return everyone or candidate.standing is Standing.KNOWN


async def _serve(args: argparse.Namespace, command: Path, home: Home) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    key_file = home.root / "keys" / "gateway"
    key = await asyncio.to_thread(_master_key, key_file)
    fleet = Fleet(lambda candidate: wants(candidate, args.device, everyone=args.all), home=home)
    async with fleet, Front(args.host, args.port) as front:
        supervisor = Supervisor(command, home.root / "gateway", front, master_key=key, token=fleet.token)
        keeping = asyncio.create_task(_keep(fleet, supervisor, front, key_file))
        stopping = asyncio.create_task(stopped.wait())
        try:
            await asyncio.wait([keeping, stopping], return_when=asyncio.FIRST_COMPLETED)
            if keeping.done():
                keeping.result()
        finally:
            for task in (keeping, stopping):
                task.cancel()
            await asyncio.wait([keeping, stopping])
            await supervisor.close()


async def _keep(fleet: Fleet, supervisor: Supervisor, front: Front, key_file: Path) -> None:
    """Keep a process for the present configuration, again and again."""
    _LOGGER.info("Looking for devices; those that are not known yet are named with --device")
    await fleet.changed()
    is_first = True
    while True:
        while await _differs(fleet):
            pass
        deployments = fleet.deployments()
        try:
            await supervisor.serve(deployments)
        except GatewayError as err:
            if is_first:
                raise
            _LOGGER.error("%s The former configuration stays for now.", err.message)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(fleet.changed(), _RETRY_S)
            continue
        models = sorted({one.model for one in deployments})
        _LOGGER.info("Serving %s from %d devices", ", ".join(models), len({one.device for one in deployments}))
        if is_first:
            print(f"http://127.0.0.1:{front.port}/v1 is ready; its key is in {key_file}", file=sys.stderr, flush=True)
        is_first = False
        changed, ended = asyncio.create_task(fleet.changed()), asyncio.create_task(supervisor.ended())
        try:
            await asyncio.wait([changed, ended], return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                _LOGGER.error("LiteLLM ended with %d; starting it again", ended.result())
                await asyncio.sleep(_RESTART_PAUSE_S)
        finally:
            for task in (changed, ended):
                task.cancel()
            await asyncio.wait([changed, ended])


async def _differs(fleet: Fleet) -> bool:
    """Tell if the list is still changing: devices that start together are one configuration."""
    try:
        await asyncio.wait_for(fleet.changed(), _SETTLE_S)
    except TimeoutError:
        return False
    return True


def _master_key(path: Path) -> str:
    """Return the key of the gateway's own clients, made once."""
    with contextlib.suppress(FileExistsError):
        if not path.exists():
            write_atomically(path, f"sk-{secrets.token_hex(24)}\n".encode(), replace=False)
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as err:
        raise ConfigError(f"The gateway's key cannot be read from {path}: {err}.") from err
