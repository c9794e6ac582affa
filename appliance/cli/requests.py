"""`lantern requests`: show the last requests of a device: times, routes, statuses and counts, without any content."""

from __future__ import annotations

import argparse
import asyncio
import json
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from appliance.cli.administered import running_device
from appliance.cli.selection import add_device

if TYPE_CHECKING:  # a client does not load the server
    from appliance.server.admin.device import RequestInfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_device(parser, "this machine")


def run(args: argparse.Namespace) -> int:
    """Show them.

    Raises:
        DeviceError: the key does not administer.
        DiscoveryError: no server runs here, or there is no such device.
    """
    requests, names = asyncio.run(_ask(args.device))
    if args.json:
        print(json.dumps(requests, indent=2))
    else:
        _show(requests, names)
    return 0


async def _ask(name: str | None) -> tuple[list[RequestInfo], dict[str, str]]:
    """Return the requests, and the names of keys by their ids."""
    async with running_device(name) as device:
        requests = await device.requests()
        return requests, {key["id"]: key["name"] for key in await device.keys()}


def _show(requests: list[RequestInfo], names: dict[str, str]) -> None:
    """Print a table; its texts come from the device, so none is parsed as markup."""
    table = Table("Time", "Request", "Status", "ms", "Tokens", "Key", "From", box=None, pad_edge=False)
    for one in requests:
        tokens = f"{one['prompt_tokens']} + {one['generated_tokens']}" if one["prompt_tokens"] else ""
        when = datetime.fromtimestamp(one["at"]).strftime("%Y-%m-%d %H:%M:%S")
        cells = [when, f"{one['method']} {one['route']}", one["status"], str(one["duration_ms"]), tokens]
        table.add_row(*map(Text, [*cells, names.get(one["key"], one["key"]), one["peer"]]))
    Console().print(table if requests else "There was no request since the start.")
