"""`lantern discover`: the devices on the local network, as a table, as JSON, or live.

Each device shows its certificate and is asked for its health and its models, never with a key: whoever answers on the
network may be anybody. The arrow marks the one that `lantern url` and `openai_client()` take when none is named.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from appliance.cli.formats import FORMATS
from appliance.cli.selection import add_device, add_timeout
from appliance.discovery import Browser, Device, browse
from appliance.errors import ConfigError, DiscoveryError
from appliance.home import lantern_home
from appliance.remote import KnownDevices
from appliance.remote.probe import Probe, probe_all
from appliance.remote.target import preferred
from appliance.remote.trust import Candidate, examine

_NOTHING = "No {} was found on the local network within {:g} s; is one running with `lantern serve --announce`?"
_STATE_STYLES = {
    "ok": "green",
    "ready": "green",
    "no answer": "red",
    "slow": "yellow",
    "degraded": "yellow",
    "draining": "yellow",
}
_TRUST_STYLES = {"known": "green", "refused": "red"}


@dataclass(frozen=True, slots=True)
class Row:
    """The columns of one device."""

    candidate: Candidate
    probe: Probe
    is_preferred: bool = False

    @property
    def device(self) -> Device:
        """As it was announced."""
        return self.candidate.found

    def to_json(self) -> dict[str, object]:
        """Return one object of `--json`."""
        models = None if self.probe.models is None else list(self.probe.models)
        answered = {"answer": self.probe.state, "models": models}
        load = {"num_running": self.probe.num_running, "num_waiting": self.probe.num_waiting}
        trust = {"trust": self.candidate.standing.value, "problem": self.candidate.problem or None}
        return self.device.to_json() | answered | load | trust | {"preferred": self.is_preferred}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON array; with --watch, one a line")
    output.add_argument("--format", choices=FORMATS, help="print the configuration of another program")
    output.add_argument(
        "--forget", action="store_true", help="forget the certificate of --device, and accept another one from it"
    )
    add_device(parser, "all")
    add_timeout(parser)
    parser.add_argument("--watch", action="store_true", help="stay, and show devices as they come and go")


def run(args: argparse.Namespace) -> int:
    """Search and print.

    Raises:
        DiscoveryError: nothing was found; its exit code is the command's.
        ConfigError: `--forget` without `--device`, or the known devices cannot be read.
    """
    if args.forget:
        return _forget(args.device)
    try:
        if args.watch:
            asyncio.run(_watch(args.timeout, args.device, as_json=args.json))
        else:
            asyncio.run(_list(args.timeout, args.device, as_json=args.json, form=args.format))
    except KeyboardInterrupt:
        return 130
    return 0


def _forget(name: str | None) -> int:
    if name is None:
        raise ConfigError("Nothing was forgotten; say which device with --device DEVICE.")
    gone = KnownDevices.load(lantern_home().known_devices).forget(name)
    if not gone:
        raise DiscoveryError(f"No device is known as {name!r}.")
    for device in gone:
        print(f"Forgot {device.name} ({device.identity}), known since {device.first_seen}.", file=sys.stderr)
    return 0


async def _list(timeout_s: float, name: str | None, *, as_json: bool, form: str | None) -> None:
    rows = await _rows(await browse(timeout_s=timeout_s), name)
    if as_json:
        print(json.dumps([row.to_json() for row in rows], indent=2))
    if not rows:
        raise DiscoveryError(_NOTHING.format("device" if name is None else f"device {name!r}", timeout_s))
    for problem in (row.candidate.problem for row in rows if row.candidate.problem):
        print(problem, file=sys.stderr)
    if form is not None:
        usable = [row for row in rows if not row.candidate.problem]
        if not usable:
            raise DiscoveryError("No device was found that can be trusted.")
        usable.sort(key=lambda row: not row.is_preferred)
        print(FORMATS[form]([r.device for r in usable], {r.device.base_url: r.probe for r in usable}), end="")
    elif not as_json:
        Console().print(device_table(rows))


async def _watch(refresh_s: float, name: str | None, *, as_json: bool) -> None:
    """Show every difference, and ask again after every pause: a device that lost power says no goodbye."""
    async with Browser() as browser:
        with Live(device_table(()), console=Console(quiet=as_json), auto_refresh=False) as live:
            while True:
                await browser.changed(refresh_s)
                rows = await _rows(browser.devices(), name)
                live.update(device_table(rows), refresh=True)
                if as_json:
                    print(json.dumps([row.to_json() for row in rows]), flush=True)


async def _rows(devices: Sequence[Device], name: str | None) -> list[Row]:
    """Ask every device at once for its certificate, its health and its models; keep those that answer to `name`."""
    known = await asyncio.to_thread(KnownDevices.load, lantern_home().known_devices)
    candidates, probes = await asyncio.gather(examine(devices, known), probe_all(devices))
    best = None
    with contextlib.suppress(DiscoveryError):
        best = preferred(candidates)
    wanted = [one for one in candidates if name is None or one.answers_to(name)]
    return [Row(one, probes[one.found.base_url], one is best) for one in wanted]


def device_table(rows: Sequence[Row]) -> Table:
    """Return the table that people see; all texts in it are foreign, so none is read as markup."""
    width = max((len(row.device.base_url) for row in rows), default=0)  # an address that is cut is of no use
    address = Column("Address", min_width=width)
    table = Table("", "Name", address, "Models", "Load", "Trust", "Version", "State", box=None, pad_edge=False)
    for row in rows:
        device, probe, trust = row.device, row.probe, row.candidate.standing.value
        models = ", ".join(probe.models) if probe.models is not None else str(device.num_models)
        cells = ["→" if row.is_preferred else "", device.name, device.base_url, models, _load(probe)]
        state = Text(probe.state, style=_STATE_STYLES.get(probe.state, ""))
        shown = Text(f"{trust}, key" if device.auth.value == "bearer" else trust, style=_TRUST_STYLES.get(trust, ""))
        table.add_row(*map(Text, cells), shown, Text(device.version or "?"), state)
    return table


def _load(probe: Probe) -> str:
    """Return the running and the waiting requests."""
    if probe.num_running is None:
        return "?"
    return str(probe.num_running) + (f" +{probe.num_waiting}" if probe.num_waiting else "")
