"""`lantern url`: print a device's base URL, for `export OPENAI_BASE_URL=$(lantern url)`.

The URL is the one that the device announces, over plain HTTP where it speaks it: programs that were not made for
Lantern cannot check its certificate. A device that is known and shows another certificate is not printed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from appliance.cli.selection import add_timeout
from appliance.remote.target import select


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--name", help="the device's name, host name or id; else the first by trust, state, name")
    parser.add_argument("--model", help="a device that serves this model")
    add_timeout(parser)


def run(args: argparse.Namespace) -> int:
    """Print the URL; why it is this one goes to standard error.

    Raises:
        DiscoveryError: nothing was found, or nothing that fits.
        TrustError: the device is not who it says it is.
    """
    selection = asyncio.run(select(args.name, model=args.model, timeout_s=args.timeout))
    print(selection.choice.reason, file=sys.stderr)
    print(selection.candidate.found.base_url)
    return 0
