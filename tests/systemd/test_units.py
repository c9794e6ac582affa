"""Units, checked without running them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
MAX_EXPOSURE = 1.5

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units with a program that exists here."""
    copies = []
    for unit in sorted(UNITS.glob("*.s[eo]*")):
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text("utf-8").replace("/opt/lantern/bin/lantern", "/bin/true"), "utf-8")
        copies.append(copy)
    return copies


@needs_analyze
def test_the_units_are_valid_together(units: list[Path]) -> None:
    assert {u.name for u in units} >= {
        "lantern.service",
        "lantern.socket",
        "lantern-safe.service",
        "lantern-recover.service",
        "lantern-firstboot.service",
    }
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, units)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr


@needs_analyze
def test_the_sandbox_leaves_little_exposed(units: list[Path]) -> None:
    for unit in units:
        if unit.suffix == ".service":
            command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
            report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            [level] = re.findall(r"exposure level.*: ([0-9.]+)", report)
            assert float(level) <= MAX_EXPOSURE, unit.name


def test_the_service_has_what_was_promised_of_it() -> None:
    lines = (UNITS / "lantern.service").read_text("utf-8").splitlines()
    promised = {"Type=notify", "WatchdogSec=30", "OOMPolicy=stop", "KillMode=mixed", "LimitCORE=0", "TimeoutStopSec=45"}
    assert promised <= set(lines)
    limits = {
        name: int(value)
        for line in lines
        if (m := re.match(r"(MemoryHigh|MemoryMax)=(\d+)%", line))
        for name, value in [m.groups()]
    }
    assert 0 < limits["MemoryHigh"] < limits["MemoryMax"] < 100
    assert any(line.startswith("After=network.target") for line in lines)
    assert not any(
        "network-online" in line or line.startswith("IPAddressDeny") or line == "ProcSubset=pid" for line in lines
    )


def test_all_services_have_the_same_sandbox() -> None:
    def sandbox(name: str) -> set[str]:
        text = (UNITS / name).read_text("utf-8")
        return set(text[text.index("DynamicUser=") :].partition("\n[Install]")[0].split("\n")) - {""}

    assert sandbox("lantern.service") == sandbox("lantern-safe.service") == sandbox("lantern-firstboot.service")
