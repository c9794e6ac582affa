"""`lantern doctor`: look at board, settings, keys, models and unit; say what is wrong and what helps."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from appliance.diagnosis.board import (
    check_board,
    check_clock,
    check_heat,
    check_memory,
    check_network,
    check_storage,
)
from appliance.diagnosis.device import check_device
from appliance.diagnosis.finding import Finding, Level
from appliance.diagnosis.installation import (
    check_bundles,
    check_keys,
    check_port,
    check_settings,
    check_unit,
    check_versions,
)
from appliance.home import lantern_home
from appliance.host.thermal import read_thermal

_MARKS = {Level.GOOD: "ok  ", Level.NOTE: "note", Level.BAD: "BAD "}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (default: lantern.toml in LANTERN_HOME)")


def run(args: argparse.Namespace) -> int:
    """Print every finding; 1 where one is bad. Changes nothing."""
    is_bad = False
    for finding in _findings(args.config):
        print(f"{_MARKS[finding.level]}  {finding.subject:9} {finding.text}")
        if finding.remedy:
            print(f"{'':16}{finding.remedy}")
        is_bad = is_bad or finding.level is Level.BAD
    return int(is_bad)


def _findings(config_path: Path | None) -> Iterator[Finding]:
    home = lantern_home()
    default = home.root / "lantern.toml"
    settings, config = check_settings(config_path or (default if default.exists() else None))
    unit, is_running = check_unit()
    yield check_board()
    device = check_device()
    if device is not None:
        yield device
    yield check_memory()
    yield check_heat(read_thermal())
    yield check_storage(home.root)
    yield check_clock()
    yield check_network()
    yield settings
    yield check_port(config, is_running=is_running)
    yield check_keys(home, config)
    yield from check_bundles(home)
    yield unit
    yield check_versions()
