"""The locks: every package by hash, none with a known hole, and nothing else is installed on a device."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = [ROOT / "appliance" / "requirements.lock", ROOT / "quantize" / "requirements.lock"]
FLOORS = {"aiohttp": (3, 14, 3), "zeroconf": (0, 150), "jinja2": (3, 1, 6), "onnx": (1, 21)}  # below are known holes


def locked(path: Path) -> dict[str, tuple[str, int]]:
    """Version and number of hashes of each package."""
    text = re.sub(r"\\\n\s*", " ", path.read_text("utf-8"))
    found = {}
    for line in text.splitlines():
        if match := re.match(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", line):
            found[match[1].lower()] = (match[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}", line)))
    return found


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version.partition("+")[0]))


@pytest.mark.parametrize("path", LOCKS, ids=["device", "workstation"])
def test_every_package_is_locked_by_hash(path: Path) -> None:
    packages = locked(path)
    assert len(packages) > 20
    assert not [name for name, (_, num_hashes) in packages.items() if not num_hashes]
    assert not re.search(
        r"^(-e|--index|--extra-index|--find-links|git\+|https?:)", path.read_text("utf-8"), re.MULTILINE
    )


@pytest.mark.parametrize("path", LOCKS, ids=["device", "workstation"])
def test_no_package_is_older_than_its_last_known_hole(path: Path) -> None:
    packages = locked(path)
    for name, floor in FLOORS.items():
        if name in packages:
            assert numbers(packages[name][0]) >= floor, name
    assert set(FLOORS) - {"onnx"} <= set(packages)


def test_the_floors_are_those_of_the_project_too() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    stated = [*project["dependencies"], *project["optional-dependencies"]["quantize"]]
    for name, floor in FLOORS.items():
        [version] = [m[1] for d in stated if (m := re.match(rf"(?i){name}>=([0-9.]+)", d))]
        assert numbers(version) >= floor, name


def test_every_install_command_asks_for_the_hashes() -> None:
    for path in (ROOT / "Makefile", ROOT / "systemd" / "install.sh"):
        for line in path.read_text("utf-8").splitlines():
            if "requirements.lock" in line and "install" in line and "-r" in line:
                assert "--require-hashes" in line, line
