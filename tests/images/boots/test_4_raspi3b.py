"""The same card in QEMU's model of a Raspberry Pi 3B: its device tree, its SD host; no network, and slow.

The board of the other tests stands idle meanwhile, and what it writes is counted.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.workplace import run
from tests.images.boots.board import MINUTES, PATIENT_WATCHDOG, Card, until
from tests.images.boots.conftest import Idleness, image_path

_DEVICE_TREE = "bcm2837-rpi-3-b.dtb"


@pytest.fixture(scope="module")
def folder(scratch: Path) -> Path:
    place = scratch / "raspi3b"
    place.mkdir(exist_ok=True)
    return place


@pytest.fixture(scope="module")
def log(folder: Path, idleness: Idleness) -> Iterator[Path]:
    """A new card in the model, switched on; both of its serial lines."""
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
            *("-dtb", folder / _DEVICE_TREE, "-append", f"{console} lantern.deadline=3600 {PATIENT_WATCHDOG}"),
            *("-drive", f"file={card.path},if=sd,format=raw,cache=unsafe", "-display", "none", "-no-reboot"),
            *("-serial", f"file:{text}", "-serial", f"file:{folder / 'serial-1.log'}"),
        ],
        stdin=subprocess.DEVNULL,
    )
    try:
        yield text
    finally:
        process.kill()
        process.wait(30)


def wait_for(log: Path, what: str, minutes: float) -> re.Match[str]:
    def look() -> re.Match[str] | None:
        both = [p.read_text("utf-8", "replace") for p in log.parent.glob("serial*.log")]
        assert "Kernel panic" not in "".join(both)
        return re.search(what, "".join(both))

    return until(look, lambda: True, minutes * MINUTES, what, log)


def test_it_is_a_pi_3_to_the_kernel(log: Path) -> None:
    assert wait_for(log, "Machine model: Raspberry Pi 3 Model B", 5)


def test_the_chooser_writes_its_state_through_the_boards_own_driver(log: Path) -> None:
    assert wait_for(log, r"lantern-slot: state LANTERN1 1 a 2 0 1 0", 10)
    assert wait_for(log, "lantern-slot: starting a", 1)


def test_it_gets_ready(log: Path) -> None:
    """The API answers there too, and onnxruntime computes right: that is what lantern-confirm asks for."""
    wait_for(log, r"http://lantern-[0-9a-f]{8}\.local/v1", 20)
    wait_for(log, "is healthy and confirmed; no failed unit", 20)
