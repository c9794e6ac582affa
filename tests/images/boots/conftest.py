"""One board for all boots: starting it is what costs. Only `make image-test` runs them, with an image in dist/."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from images.workplace import ROOT, VERSION
from tests.images.boots.board import Board, Card, switched_on
from tests.images.boots.figures import table
from tests.images.boots.user import User

_TOOLS = ("qemu-system-aarch64", "mtype", "mcopy", "debugfs", "sfdisk")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Minutes of emulation each: not part of the fast suite."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    reason = None
    if os.environ.get("LANTERN_IMAGE_TESTS") != "1":
        reason = "minutes of emulation: make image-test"
    elif missing:
        reason = f"{', '.join(missing)} not installed: make image-deps"
    elif not image_path().exists():
        reason = f"{image_path()} is absent: make image BOARD=raspberry-pi"
    if reason is not None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    if text := table():
        terminalreporter.section("figures")
        terminalreporter.write_line(text)


def image_path() -> Path:
    """The image under test."""
    default = ROOT / "dist" / f"lantern-{VERSION}-raspberry-pi.img"
    return Path(os.environ.get("LANTERN_IMAGE", default))


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of cards and logs; LANTERN_IMAGE_LOGS keeps them."""
    kept = os.environ.get("LANTERN_IMAGE_LOGS")
    if kept:
        Path(kept).mkdir(parents=True, exist_ok=True)
        return Path(kept)
    return tmp_path_factory.mktemp("boots")


@pytest.fixture(scope="session")
def board(scratch: Path) -> Iterator[Board]:
    """A new card in a board that was just switched on."""
    card = Card(image_path(), scratch)
    # An emulated board loads a model in minutes, and asks of many at once wait for it.
    card.write("lantern.toml", b"[server]\nmax_wait_s = 900\n")
    with switched_on(card, scratch) as running:
        yield running


@pytest.fixture(scope="session")
def user(board: Board, scratch: Path) -> User:
    """Somebody on the LAN, who has claimed the board as soon as it answered."""
    board.wait_for_health()
    homes = scratch / "homes"
    homes.mkdir(exist_ok=True)
    person = User(board, homes)
    person.claim()
    return person


@dataclass(frozen=True, slots=True)
class Idleness:
    """The board at the beginning of a time in which nobody asks it anything."""

    since_s: float
    written_bytes: int


@pytest.fixture(scope="session")
def idleness(board: Board, user: User) -> Idleness:
    """Begins before the Raspberry Pi 3 is tried, so that its minutes count for both."""
    assert user.ask()
    board.wait_for("is healthy and confirmed")
    return Idleness(time.monotonic(), board.written_bytes())
