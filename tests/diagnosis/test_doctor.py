"""Each finding, provoked; and the command over a real home."""

from __future__ import annotations

import datetime
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.access.keystore import KeyStore
from appliance.bundle import BundleStore, TrustedKeys
from appliance.config import Config
from appliance.diagnosis.board import check_clock, check_heat, check_memory
from appliance.diagnosis.capacity import check_capacity
from appliance.diagnosis.examination import examine
from appliance.diagnosis.finding import Finding, Level
from appliance.diagnosis.installation import (
    check_bundles,
    check_keys,
    check_port,
    check_settings,
    check_versions,
    judge_unit,
)
from appliance.diagnosis.storage import check_storage
from appliance.home import Home
from appliance.host.processor import ProcessorKind
from appliance.host.thermal import Thermal
from tests.bundle.workshop import Workshop, install_untried


def assert_bad(finding: Finding, said: str, level: Level = Level.BAD) -> None:
    assert finding.level is level
    assert said in finding.text
    assert finding.remedy.endswith(".")


def test_what_the_board_lacks_is_said(tmp_path: Path) -> None:
    assert_bad(check_memory(100 << 20), "100 MiB")
    assert_bad(check_heat(Thermal(85.0, is_throttled=True)), "85")
    assert_bad(check_heat(Thermal(50.0, is_under_voltage=True)), "voltage")
    assert_bad(check_heat(Thermal(50.0, was_under_voltage=True)), "too low since the start", Level.NOTE)
    assert_bad(check_heat(Thermal(50.0, was_throttled=True)), "slowed down since the start", Level.NOTE)
    assert check_heat(Thermal(50.0)).level is Level.GOOD
    worn = tmp_path / "block/mmcblk0/device/life_time"
    worn.parent.mkdir(parents=True)
    worn.write_text("0x02 0x09\n")
    assert_bad(check_storage(tmp_path, sys=tmp_path), "90 %", Level.NOTE)
    worn.write_text("0x02 0x01\n")
    assert check_storage(tmp_path / "not" / "yet", sys=tmp_path).level is Level.GOOD


def test_a_clock_before_the_release_was_never_set() -> None:
    released = datetime.datetime(2026, 11, 28, 12, tzinfo=datetime.UTC)
    for now in (datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC), datetime.datetime(2026, 9, 1, tzinfo=datetime.UTC)):
        assert_bad(check_clock(now, released), "before this version was made (2026-11-28)", Level.NOTE)
    assert check_clock(released, released).level is Level.GOOD
    wheel = datetime.datetime(2020, 2, 2, tzinfo=datetime.UTC)
    assert_bad(check_clock(datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), wheel), "(2026-01-01)", Level.NOTE)
    assert check_clock().level is Level.GOOD


def test_a_model_that_outgrew_the_boards_memory_is_named(tmp_path: Path) -> None:
    home, workshop = Home(tmp_path / "home"), Workshop(tmp_path)
    trusted = TrustedKeys.load(home.trusted_keys)
    trusted.add(workshop.key.public)
    store = BundleStore(home.bundles, trusted)
    assert check_capacity(home, Config()) == []
    with store.writing():
        install_untried(store, workshop.make(name="tiny"))
    [finding] = check_capacity(home, Config(), total_bytes=64 << 20)
    assert_bad(finding, "tiny needs")
    assert "64 MiB is all there is" in finding.text
    assert finding.remedy.startswith("Lower engine.slots")
    limited = Config.model_validate({"models": {"memory_mib": 100}})
    [finding] = check_capacity(home, limited, total_bytes=8 << 30)
    assert_bad(finding, "100 MiB is all there is")
    assert finding.remedy.startswith("Raise models.memory_mib")
    [finding] = check_capacity(home, Config(), total_bytes=8 << 30)
    assert finding.level is Level.GOOD


def test_faults_that_the_server_knows_are_told(tmp_path: Path) -> None:
    found = list(examine(Home(tmp_path), served=Config(), faults=["responses cannot be stored: the disk is full"]))
    [finding] = [finding for finding in found if finding.subject == "faults"]
    assert_bad(finding, "the disk is full")


def test_a_server_is_examined_by_its_own_settings_and_its_file_as_it_is_now(tmp_path: Path) -> None:
    (tmp_path / "lantern.toml").write_text("[server]\nport = 99999\n")
    exposed = Config.model_validate({"server": {"host": "0.0.0.0"}})
    found = {finding.subject: finding for finding in examine(Home(tmp_path), served=exposed)}
    assert_bad(found["settings"], "server.port is 99999")
    assert_bad(found["keys"], "none")
    assert "port" not in found


def test_settings_that_are_not_valid_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lantern.toml"
    path.write_text("[server]\nport = 99999\n")
    finding, config = check_settings(path)
    assert_bad(finding, "server.port is 99999")
    assert config == Config()


def test_a_port_that_somebody_else_has_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = Config.model_validate({"server": {"port": taken.getsockname()[1]}})
        assert_bad(check_port(config, is_running=False), "in use")
        assert check_port(config, is_running=True).level is Level.GOOD
    assert check_port(config, is_running=False).level is Level.GOOD


def test_keys_are_missed_where_the_network_can_connect(tmp_path: Path) -> None:
    home, exposed = Home(tmp_path), Config.model_validate({"server": {"host": "0.0.0.0"}})
    assert check_keys(home, Config()).level is Level.GOOD
    assert_bad(check_keys(home, exposed), "none")
    opened = Config.model_validate({"server": {"host": "0.0.0.0", "allow_open": True}})
    assert_bad(check_keys(home, opened), "anybody", Level.NOTE)
    KeyStore(home.api_keys).create("a")
    assert check_keys(home, exposed).level is Level.GOOD
    guessed = Config.model_validate({"server": {"keys": ["password1"]}})
    assert_bad(check_keys(home, guessed), "guessed", Level.NOTE)


def test_a_home_without_models_is_told_how_to_get_some(tmp_path: Path) -> None:
    [finding] = check_bundles(Home(tmp_path))
    assert_bad(finding, "none is installed")


@pytest.mark.parametrize(("kind", "is_told"), [("dotprod", False), ("neon", True), ("x86", True)])
def test_a_bundle_for_another_board_is_told(tmp_path: Path, kind: ProcessorKind, is_told: bool) -> None:
    workshop, home = Workshop(tmp_path), Home(tmp_path / "home")
    TrustedKeys.load(home.trusted_keys).add(workshop.key.public)
    store = BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys))
    install_untried(store, workshop.make(built_for="pi5"))
    first, *others = check_bundles(home, kind)
    assert first.level is Level.GOOD
    assert len(others) == is_told
    for finding in others:
        assert_bad(finding, "was built for pi5", Level.NOTE)


@pytest.mark.parametrize(
    ("state", "level", "runs"),
    [
        ({"LoadState": "not-found"}, Level.NOTE, False),
        ({"LoadState": "loaded", "ActiveState": "failed", "Result": "watchdog"}, Level.BAD, False),
        ({"LoadState": "loaded", "ActiveState": "active", "NRestarts": "3"}, Level.NOTE, True),
        ({"LoadState": "loaded", "ActiveState": "active", "NRestarts": "0"}, Level.GOOD, True),
    ],
)
def test_the_units_state_is_read(state: dict[str, str], level: Level, runs: bool) -> None:
    finding, is_running = judge_unit(state)
    assert (finding.level, is_running) == (level, runs)


def test_packages_with_known_holes_are_named() -> None:
    assert check_versions().level is Level.GOOD
    assert_bad(check_versions({"aiohttp": "3.14.2", "zeroconf": "0.154.0", "Jinja2": "3.1.6"}), "aiohttp 3.14.2")


def test_the_command_tells_everything_and_changes_nothing(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "appliance", "doctor"],
        env={**os.environ, "LANTERN_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert not result.stderr
    for subject in (
        "board",
        "memory",
        "storage",
        "clock",
        "network",
        "settings",
        "port",
        "keys",
        "models",
        "unit",
        "versions",
    ):
        assert subject in result.stdout
    assert not (tmp_path / "home").exists()
