"""Options that many commands share: the device, and the time to search for it."""

from __future__ import annotations

import argparse


def add_device(parser: argparse.ArgumentParser, default: str, *, required: bool = False) -> None:
    """Declare `--device`, the one way to name a device; `default` says which one is taken without it."""
    what = f"a device: its name, host name or id, or its URL (default: {default})"
    if required:
        what = "the device: its name, host name or id, or its URL"
    parser.add_argument("--device", metavar="DEVICE", required=required, help=what)


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """Declare `--timeout`."""
    what = "how long to search (default %(default)g)"
    parser.add_argument("--timeout", type=_seconds, default=3.0, metavar="SECONDS", help=what)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3600 seconds")
    return value
