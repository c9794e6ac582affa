"""The same card in QEMU's model of a Raspberry Pi 3B: its device tree, its SD host; no network, and slow.

The board of the other tests stands idle meanwhile, and what it writes is counted.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from images.workplace import run
from tests.images.boots.board import MINUTES, Card, until
from tests.images.boots.conftest import Idleness, image_path

_DEVICE_TREE = "bcm2837-rpi-3-b.dtb"
# QEMU's model of this board's watchdog resets the board as soon as it is set.
_NO_WATCHDOG = "systemd.watchdog_sec=0"


@dataclass(frozen=True, slots=True)
class Pi3:
    """The running model, and where its serial lines are written."""

    process: subprocess.Popen[bytes]
    folder: Path

    def wait_for(self, what: str, minutes: float) -> re.Match[str]:
        """Wait until either serial line has said something."""

        def look() -> re.Match[str] | None:
            both = "".join(p.read_text("utf-8", "replace") for p in self.folder.glob("serial*.log"))
            assert "Kernel panic" not in both
            return re.search(what, both)

        return until(look, lambda: self.process.poll() is None, minutes * MINUTES, what, self.folder / "serial.log")


@pytest.fixture(scope="module")
def folder(scratch: Path) -> Path:
    place = scratch / "raspi3b"
    place.mkdir(exist_ok=True)
    return place


@pytest.fixture(scope="module")
def pi3(folder: Path, idleness: Idleness) -> Iterator[Pi3]:
    """A new card in the model, switched on."""
    assert idleness
    card = Card(image_path(), folder)
    run("truncate", "--size=8G", card.path)  # the model takes powers of two only
    kernel, initramfs, cmdline = card.boot_files(folder, "pi3")
    (folder / _DEVICE_TREE).write_bytes(card.read(f"a/{_DEVICE_TREE}"))
    console = cmdline.replace("console=serial0,115200", "console=ttyS1,115200 console=ttyAMA0,115200")
    text = folder / "serial.log"
    text.touch()
    process = subprocess.Popen(
        [
            *("qemu-system-aarch64", "-M", "raspi3b", "-kernel", kernel, "-initrd", initramfs),
            *("-dtb", folder / _DEVICE_TREE, "-append", f"{console} lantern.deadline=3600 {_NO_WATCHDOG}"),
            *("-drive", f"file={card.path},if=sd,format=raw,cache=unsafe", "-display", "none", "-no-reboot"),
            *("-serial", f"file:{text}", "-serial", f"file:{folder / 'serial-1.log'}"),
        ],
        stdin=subprocess.DEVNULL,
    )
    try:
        yield Pi3(process, folder)
    finally:
        process.kill()
        process.wait(30)


def test_it_is_a_pi_3_to_the_kernel(pi3: Pi3) -> None:
    assert pi3.wait_for("Machine model: Raspberry Pi 3 Model B", 5)


def test_the_chooser_writes_its_state_through_the_boards_own_driver(pi3: Pi3) -> None:
    assert pi3.wait_for(r"lantern-slot: state LANTERN1 1 a 2 0 1 0", 10)
    assert pi3.wait_for("lantern-slot: starting a", 1)


def test_it_gets_ready(pi3: Pi3) -> None:
    """The API answers there too, and onnxruntime computes right: that is what lantern-confirm asks for."""
    pi3.wait_for(r"https://lantern-[0-9a-f]{8}\.local/", 20)
    pi3.wait_for(r"Claim code  [0-9A-Z]{4}-[0-9A-Z]{4}", 20)
    pi3.wait_for("is healthy and confirmed; no failed unit", 20)
