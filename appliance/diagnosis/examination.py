"""All checks of a device in their order, for the command and for the API."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path

from appliance.config import Config
from appliance.diagnosis.board import check_board, check_clock, check_heat, check_memory, check_network
from appliance.diagnosis.capacity import check_capacity
from appliance.diagnosis.certificate import check_certificate
from appliance.diagnosis.device import check_device
from appliance.diagnosis.finding import Finding, bad
from appliance.diagnosis.installation import (
    check_bundles,
    check_keys,
    check_port,
    check_settings,
    check_unit,
    check_versions,
)
from appliance.diagnosis.kernels import check_kernels
from appliance.diagnosis.storage import check_responses, check_storage, check_wear
from appliance.home import Home
from appliance.host.thermal import read_thermal

_FAULT = "Look at the disk and its space, then at journalctl -u lantern; the device serves from memory meanwhile."


def examine(
    home: Home, config_path: Path | None = None, faults: Sequence[str] = (), *, served: Config | None = None
) -> Iterator[Finding]:
    """Yield every finding; blocks for seconds, and changes nothing.

    If the server itself asks, `served` are the settings that it runs with, flags included: its port is in use, and the
    other checks go by them, while the file is checked as it is now. `faults` are those that the server knows itself.
    """
    settings, config = check_settings(home.settings_file(config_path))
    config = served or config
    unit, is_running = check_unit()
    yield check_board()
    yield from check_device(home)
    yield check_memory()
    yield check_heat(read_thermal())
    yield check_storage(home.root)
    yield from _present(check_wear(home, config), check_responses(home, config))
    yield from (bad("faults", fault, _FAULT) for fault in faults)
    yield check_clock()
    yield check_network()
    yield settings
    if served is None:
        yield check_port(config, is_running=is_running)
    yield from _present(check_certificate(home, config, datetime.datetime.now(tz=datetime.UTC)))
    yield check_keys(home, config)
    yield from check_bundles(home)
    yield from check_capacity(home, config)
    yield from check_kernels(home, config)
    yield unit
    yield check_versions()


def _present(*findings: Finding | None) -> Iterator[Finding]:
    return (finding for finding in findings if finding is not None)
