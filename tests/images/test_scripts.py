"""Scripts and units of images, checked without building one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from images.raspberry_pi.layout import BOOT, DATA, DISK_ID, EXTENDED, RESERVED, SIZE_MIB, SYSTEM_A, SYSTEM_B
from images.workplace import ROOT

_IMAGES = ROOT / "images"
_OVERLAY = _IMAGES / "raspberry_pi/overlay"
_UNITS = _OVERLAY / "usr/lib/systemd/system"


def is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(9) == b"#!/bin/sh"


def test_every_shell_script_is_sound_whatever_it_is_called() -> None:
    scripts = [p for p in _IMAGES.rglob("*") if p.is_file() and is_shell(p)]
    assert len(scripts) > 10
    command: list[str | Path] = [Path(sys.executable).with_name("shellcheck")]
    command += ["--shell=sh", "--exclude=SC1091,SC2154", *scripts]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_every_script_that_is_called_can_be_executed() -> None:
    for path in _IMAGES.rglob("*"):
        if path.is_file() and is_shell(path) and path.parent != _IMAGES / "deb":
            assert path.stat().st_mode & 0o111 == 0o111, path


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_images_units_are_valid_beside_the_appliances(tmp_path: Path) -> None:
    for unit in [*ROOT.glob("systemd/lantern*.s*"), *_UNITS.glob("lantern*.*[!d]")]:
        text = re.sub(r"^(Exec\w+=)(\S+)", r"\1/bin/true", unit.read_text("utf-8"), flags=re.MULTILINE)
        (tmp_path / unit.name.replace("@.", "@sda1.")).write_text(text, "utf-8")
    units = sorted(tmp_path.iterdir())
    command: list[str | Path] = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line for line in result.stderr.splitlines() if "lantern" in line or "cycle" in line]
    assert not said, result.stderr


def test_every_unit_that_is_enabled_exists() -> None:
    lines = (_OVERLAY / "usr/lib/systemd/system-preset/10-lantern-image.preset").read_text("utf-8").splitlines()
    enabled = {line.split()[1] for line in lines if line.startswith("enable lantern")}
    ours = {p.name for p in (*_UNITS.iterdir(), *ROOT.glob("systemd/lantern*"))}
    assert enabled <= ours, enabled - ours


def test_the_partitions_follow_each_other_without_overlap() -> None:
    for before, after in ((BOOT, RESERVED), (RESERVED, EXTENDED), (EXTENDED, DATA), (SYSTEM_A, SYSTEM_B)):
        assert before.start + before.size <= after.start
    assert EXTENDED.start < SYSTEM_A.start
    assert SYSTEM_B.start + SYSTEM_B.size <= EXTENDED.start + EXTENDED.size
    assert DATA.start + DATA.size == SIZE_MIB
    assert BOOT.start * 2048 > 4096, "the boot state lies before the first partition"


def test_every_script_speaks_of_the_same_disk() -> None:
    for path in _OVERLAY.rglob("*"):
        if path.is_file():
            found = set(re.findall(r"\b[0-9a-f]{8}(?=-0[1-6]\b)", path.read_text("utf-8", "replace")))
            assert found <= {DISK_ID}, path


def test_the_claim_code_is_on_the_card_while_it_is_needed_and_the_card_is_written_only_then(tmp_path: Path) -> None:
    calls, code, programs = tmp_path / "calls", tmp_path / "code", tmp_path / "bin"
    programs.mkdir()
    for name in ("mount", "umount"):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >>"{calls}"\n')
        (programs / name).chmod(0o755)
    shown = tmp_path / "run/claim-code/claim-code.txt"
    variables = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "LANTERN_CODE": str(code),
        "LANTERN_FIRMWARE": str(tmp_path / "card"),
        "LANTERN_RUN": str(tmp_path / "run"),
    }

    def run() -> int:
        """Return how often the card was mounted for writing."""
        calls.write_text("")
        subprocess.run([_OVERLAY / "usr/lib/lantern/claim-code.sh"], env=variables, check=True)
        made = calls.read_text().splitlines()
        assert made[0].startswith("mount -t vfat -o ro,nosuid,nodev,noexec ")
        assert made[-1] == f"umount {shown.parent}"
        return sum("remount,rw" in line for line in made)

    assert run() == 0
    code.write_text("7K3M-2QXD\n")
    assert (run(), shown.read_bytes()) == (1, b"7K3M-2QXD\r\n")
    assert run() == 0
    code.write_text("AAAA-BBBB\n")
    assert (run(), shown.read_bytes()) == (1, b"AAAA-BBBB\r\n")
    code.unlink()
    assert (run(), shown.exists()) == (1, False)
    assert run() == 0
    assert list(shown.parent.iterdir()) == []
