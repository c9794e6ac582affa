"""`lantern discover`: the devices on the local network, as a table, as JSON, or live.

Each device is asked for its health and its models, never with a key: whoever answers on the network may be anybody.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from appliance.cli.formats import FORMATS
from appliance.cli.selection import add_timeout
from appliance.discovery import Browser, Device, browse
from appliance.errors import DiscoveryError
from appliance.remote.probe import Probe, probe_all

_NOTHING = "No device was found on the local network within {:g} s; is one running with `lantern serve --announce`?"
_STATE_STYLES = {"ok": "green", "ready": "green", "no answer": "red", "degraded": "yellow", "draining": "yellow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON array; with --watch, one a line")
    output.add_argument("--format", choices=FORMATS, help="print the configuration of another program")
    add_timeout(parser)
    parser.add_argument("--watch", action="store_true", help="stay, and show devices as they come and go")


def run(args: argparse.Namespace) -> int:
    """Search and print.

    Raises:
        DiscoveryError: nothing was found; its exit code is the command's.
    """
    try:
        if args.watch:
            asyncio.run(_watch(args.timeout, as_json=args.json))
        else:
            asyncio.run(_list(args.timeout, as_json=args.json, form=args.format))
    except KeyboardInterrupt:
        return 130
    return 0


async def _list(timeout_s: float, *, as_json: bool, form: str | None) -> None:
    devices = await browse(timeout_s=timeout_s)
    probes = await probe_all(devices)
    if as_json:
        print(json.dumps([_to_json(device, probes[device.base_url]) for device in devices], indent=2))
    if not devices:
        raise DiscoveryError(_NOTHING.format(timeout_s))
    if form is not None:
        print(FORMATS[form](devices, probes), end="")
    elif not as_json:
        Console().print(device_table(devices, probes))


async def _watch(refresh_s: float, *, as_json: bool) -> None:
    """Show every difference, and ask again after every pause: a device that lost power says no goodbye."""
    async with Browser() as browser:
        with Live(device_table((), {}), console=Console(quiet=as_json), auto_refresh=False) as live:
            while True:
                await browser.changed(refresh_s)
                devices = browser.devices()
                probes = await probe_all(devices)
                live.update(device_table(devices, probes), refresh=True)
                if as_json:
                    print(json.dumps([_to_json(device, probes[device.base_url]) for device in devices]), flush=True)


def device_table(devices: Sequence[Device], probes: Mapping[str, Probe]) -> Table:
    """The table that people see; all texts in it are foreign, so none is read as markup."""
    width = max((len(device.base_url) for device in devices), default=0)  # an address that is cut is of no use
    address = Column("Address", min_width=width)
    table = Table("Name", address, "Models", "Auth", "Version", "State", box=None, pad_edge=False)
    for device in devices:
        probe = probes[device.base_url]
        models = ", ".join(probe.models) if probe.models is not None else str(device.num_models)
        cells = [device.name, device.base_url, models, device.auth.value, device.version or "?"]
        table.add_row(*map(Text, cells), Text(probe.state, style=_STATE_STYLES.get(probe.state, "")))
    return table


def _to_json(device: Device, probe: Probe) -> dict[str, object]:
    answered = {"answer": probe.state, "models": None if probe.models is None else list(probe.models)}
    return device.to_json() | answered
