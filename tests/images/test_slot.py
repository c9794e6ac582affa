"""The chooser of the two systems, run as it is, with a file as the disk and folders as the file systems."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from images.workplace import ROOT

_SCRIPT = ROOT / "images/raspberry_pi/overlay/usr/lib/lantern/slot.sh"
_SECTOR = 512
_COPIES = (2048, 4096)
_ATTEMPTS = 3


class Card:
    """A card with its firmware's folder, and what happens on a start."""

    def __init__(self, folder: Path) -> None:
        self.disk = folder / "disk"
        self.firmware = folder / "firmware"
        self.log = folder / "log"
        self._cmdline = folder / "cmdline"
        self._system = folder / "system"
        self.disk.write_bytes(bytes(_SECTOR * 8192))
        for slot in "ab":
            (self.firmware / slot).mkdir(parents=True)
            (self.firmware / slot / "vmlinuz").write_text("as shipped")
        boot = self._system / "usr/lib/lantern/boot"
        boot.mkdir(parents=True)
        for name in ("vmlinuz", "vmlinuz-pi5", "initrd.img"):
            (boot / name).write_text(f"new {name}")
        (boot / "cmdline.txt").write_text("root=PARTUUID=4c414e54-@PARTITION@ lantern.slot=@SLOT@")
        self.point("a")
        self.log.touch()

    def point(self, slot: str) -> None:
        (self.firmware / "slot.txt").write_text(f"os_prefix={slot}/\n")

    @property
    def pointed(self) -> str:
        return (self.firmware / "slot.txt").read_text()[len("os_prefix=")]

    def slot(self, *arguments: str, booted: str = "a") -> subprocess.CompletedProcess[str]:
        self._cmdline.write_text(f"quiet lantern.slot={booted} panic=10\n")
        return subprocess.run(
            ["sh", str(_SCRIPT), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": "/usr/bin:/bin",
                "LANTERN_DISK": str(self.disk),
                "LANTERN_FIRMWARE": str(self.firmware),
                "LANTERN_SYSTEM": str(self._system),
                "LANTERN_CMDLINE": str(self._cmdline),
                "LANTERN_LOG": str(self.log),
                "LANTERN_REBOOT": "echo rebooted",
            },
        )

    def start(self, *, is_healthy: bool = False) -> str:
        """Switch it on: the system that runs in the end."""
        for _ in range(3):
            pointed = self.pointed
            if "rebooted" not in self.slot("choose", booted=pointed).stdout:
                if is_healthy:
                    self.slot("set-state", pointed, "good", booted=pointed)
                return pointed
        raise AssertionError("it starts again and again")

    def copies(self) -> list[bytes]:
        data = self.disk.read_bytes()
        return [data[n * _SECTOR : (n + 1) * _SECTOR].rstrip(b"\0") for n in _COPIES]

    def spoil(self, copy: int) -> None:
        data = bytearray(self.disk.read_bytes())
        data[_COPIES[copy] * _SECTOR + 12] ^= 1
        self.disk.write_bytes(data)


@pytest.fixture
def card(tmp_path: Path) -> Card:
    return Card(tmp_path)


def update(card: Card, *, running: str = "a", to: str = "b") -> None:
    """Do as RAUC does during an installation."""
    assert card.slot("set-state", to, "bad", booted=running).returncode == 0
    assert card.slot("set-primary", to, booted=running).returncode == 0


def test_a_new_card_starts_the_system_it_came_with(card: Card) -> None:
    assert card.start() == "a"
    assert card.slot("get-current").stdout == "a\n"
    assert card.slot("get-primary").stdout == "a\n"
    assert card.slot("get-state", "b").stdout == "bad\n"


def test_a_card_whose_system_never_gets_healthy_keeps_starting_it(card: Card) -> None:
    assert [card.start() for _ in range(3 * _ATTEMPTS)] == ["a"] * 3 * _ATTEMPTS


def test_an_update_runs_next_and_stays_once_it_was_healthy(card: Card) -> None:
    card.start()
    update(card)
    assert (card.firmware / "b/vmlinuz-pi5").read_text() == "new vmlinuz-pi5"
    assert (card.firmware / "b/cmdline.txt").read_text() == "root=PARTUUID=4c414e54-06 lantern.slot=b"
    assert card.start() == "b"
    assert card.slot("is-confirmed", booted="b").returncode == 1
    card.slot("set-state", "b", "good", booted="b")
    assert card.slot("is-confirmed", booted="b").returncode == 0
    assert [card.start(is_healthy=True) for _ in range(12)] == ["b"] * 12


def test_a_healthy_system_that_is_switched_off_early_a_few_times_stays(card: Card) -> None:
    card.start(is_healthy=True)
    update(card)
    card.start(is_healthy=True)
    assert [card.start() for _ in range(8)] == ["b"] * 8


def test_a_system_that_was_healthy_and_is_no_more_gives_way_to_the_other(card: Card) -> None:
    """The card rots: what ran for months does not start any more."""
    card.start(is_healthy=True)
    update(card)
    card.start(is_healthy=True)
    started = [card.start() for _ in range(9)]
    assert started == ["b"] * 9
    assert card.start() == "a"


def test_an_update_that_never_gets_healthy_falls_back_and_is_not_tried_again(card: Card) -> None:
    card.start(is_healthy=True)
    update(card)
    assert [card.start() for _ in range(_ATTEMPTS)] == ["b"] * _ATTEMPTS
    assert [card.start() for _ in range(4 * _ATTEMPTS)] == ["a"] * 4 * _ATTEMPTS


def test_a_slot_that_was_being_written_never_starts(card: Card) -> None:
    """The power goes in the middle of an installation, which has declared the slot bad."""
    card.start(is_healthy=True)
    card.slot("set-state", "b", "bad")
    assert [card.start() for _ in range(4 * _ATTEMPTS)] == ["a"] * 4 * _ATTEMPTS


@pytest.mark.parametrize("copy", [0, 1])
def test_a_spoiled_copy_of_the_state_leaves_the_other(card: Card, copy: int) -> None:
    card.start()
    card.slot("set-state", "a", "good")
    before = card.slot("show").stdout
    newest = max((0, 1), key=lambda n: int((card.copies()[n].split() or [b"", b"0"])[1]))
    card.spoil(copy)
    after = card.slot("show").stdout
    assert "confirmed_a=1" in after
    assert (after == before) == (copy != newest)
    assert card.start() == "a"


def test_the_two_copies_are_written_in_turn(card: Card) -> None:
    for _ in range(4):
        older, newer = sorted(int((c.split() or [b"", b"0"])[1]) for c in card.copies())
        assert newer - older in (0, 1)
        card.slot("set-state", "a", "good")


def test_it_stays_where_it_is_when_the_firmware_does_not_follow(card: Card) -> None:
    """Without a device tree, say, the firmware ignores os_prefix in silence and starts the kernel of the root."""
    card.start()
    update(card)
    assert card.pointed == "b"
    assert "rebooted" not in card.slot("choose", booted="a").stdout
    assert "does not follow" in card.log.read_text()


def test_kernels_that_do_not_arrive_whole_stop_the_switch(card: Card, tmp_path: Path) -> None:
    card.start()
    (card.firmware / "b/vmlinuz").write_text("stale")
    (tmp_path / "system/usr/lib/lantern/boot/cmdline.txt").unlink()
    assert card.slot("set-primary", "b").returncode != 0
    assert card.pointed == "a"
    assert card.start() == "a"
