"""`lantern url`: print a device's base URL, for `export OPENAI_BASE_URL=$(lantern url)`."""

from __future__ import annotations

import argparse
import asyncio
import sys

from appliance.cli.selection import add_timeout, find_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--name", help="the device's name, host name or id; without it, the first by state and name")
    parser.add_argument("--model", help="a device that serves this model")
    add_timeout(parser)


def run(args: argparse.Namespace) -> int:
    """Print the URL; why it is this one goes to standard error.

    Raises:
        DiscoveryError: nothing was found, or nothing that fits.
    """
    choice = asyncio.run(find_device(name=args.name, model=args.model, timeout_s=args.timeout))
    print(choice.reason, file=sys.stderr)
    print(choice.device.base_url)
    return 0
