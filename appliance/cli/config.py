"""`lantern config`: print every setting with its default and what it is for, or check a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from appliance.config import default_toml, load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--check", type=Path, metavar="FILE", help="say whether this file is valid, and what is not")


def run(args: argparse.Namespace) -> int:
    """Print or check.

    Raises:
        ConfigError: the file is not valid; the message names the setting and what is allowed.
    """
    if args.check is None:
        print(default_toml(), end="")
    else:
        load_config(args.check)
        print(f"{args.check} is valid.")
    return 0
