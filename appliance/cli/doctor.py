"""`lantern doctor`: look at board, settings, keys, models and unit; say what is wrong and what helps."""

from __future__ import annotations

import argparse
from pathlib import Path

from appliance.diagnosis.examination import examine
from appliance.diagnosis.finding import Level
from appliance.home import lantern_home

_MARKS = {Level.GOOD: "ok  ", Level.NOTE: "note", Level.BAD: "BAD "}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (default: lantern.toml in LANTERN_HOME)")


def run(args: argparse.Namespace) -> int:
    """Print every finding; 1 where one is bad. Changes nothing."""
    is_bad = False
    for finding in examine(lantern_home(), args.config):
        print(f"{_MARKS[finding.level]}  {finding.subject:9} {finding.text}")
        if finding.remedy:
            print(f"{'':16}{finding.remedy}")
        is_bad = is_bad or finding.level is Level.BAD
    return int(is_bad)
