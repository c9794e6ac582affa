"""The options of all commands that search the network."""

from __future__ import annotations

import argparse


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """Declare `--timeout`."""
    what = "how long to search (default %(default)g)"
    parser.add_argument("--timeout", type=_seconds, default=3.0, metavar="SECONDS", help=what)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3600 seconds")
    return value
