"""`lantern url`: print a device's base URL, for `export OPENAI_BASE_URL=$(lantern url)`.

The URL is the one that the device announces, over plain HTTP where it speaks it: programs that were not made for
Lantern cannot check its certificate. A device that is known and shows another certificate is not printed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from appliance.cli.selection import add_device, add_timeout
from appliance.errors import ConfigError
from appliance.remote.session import is_url
from appliance.remote.target import select


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_device(parser, "the first by trust, state and name")
    parser.add_argument("--model", help="a device that serves this model")
    add_timeout(parser)


def run(args: argparse.Namespace) -> int:
    """Print the URL; why it is this one goes to standard error.

    Raises:
        ConfigError: `--device` is a URL.
        DiscoveryError: nothing was found, or nothing that fits.
        TrustError: the device is not who it says it is.
    """
    if args.device is not None and is_url(args.device):
        raise ConfigError(f"{args.device} is a URL already; name a device to look for.")
    selection = asyncio.run(select(args.device, model=args.model, timeout_s=args.timeout))
    print(selection.choice.reason, file=sys.stderr)
    print(selection.candidate.found.base_url)
    return 0
