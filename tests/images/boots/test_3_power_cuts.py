"""The plug is pulled, again and again: the board always comes back, whole, and serves.

QEMU is killed. What the guest had not flushed may be on the card or not, as with a real one, except that a half-written
sector is not played.
"""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from appliance.home import lantern_home
from images.raspberry_pi.image import sign_update
from images.signing import update_keys
from images.workplace import VERSION, run, say
from tests.images.boots.board import Board
from tests.images.boots.user import CHAT, User

_CUTS = int(os.environ.get("LANTERN_POWER_CUTS", "10"))
_SEED = 20261123


@pytest.fixture(scope="module")
def moments() -> random.Random:
    return random.Random(_SEED)


@pytest.fixture(scope="module")
def unbootable(scratch: Path) -> Path:
    """A signed system that is large enough to be interrupted, and that must never be left running."""
    folder = scratch / "unbootable"
    folder.mkdir(exist_ok=True)
    (folder / "noise").write_bytes(random.Random(_SEED).randbytes(200 << 20))
    system = scratch / "unbootable.squashfs"
    run("mksquashfs", folder, system, "-noappend", "-quiet", "-no-progress", "-noD", "-noF")
    return sign_update(system, scratch / "unbootable-update", version="9.9.9", keys=update_keys())


def cut_during(board: Board, user: User, arguments: list[str], after_s: float) -> None:
    """Pull the plug while a command of the user's is being carried out."""
    command = threading.Thread(target=user.lantern, args=arguments, name="asyncio_command")
    command.start()
    command.join(after_s)
    board.cut_power()
    board.switch_on()
    command.join()
    took_s = board.wait_for_health()
    say(f"cut after {after_s:.1f} s, /health again after {took_s:.0f} s")


@pytest.mark.parametrize("cut", range(_CUTS))
def test_it_comes_back_from_a_cut_during_an_update(
    board: Board, user: User, unbootable: Path, moments: random.Random, cut: int
) -> None:
    push = ["update", "push", str(unbootable), "--to", board.tls_url, "--timeout", "240"]
    cut_during(board, user, push, moments.uniform(2.0, 90.0))
    assert "Paris" in user.ask()
    running = user.administer("GET", "/admin/update")["running"]
    assert running.startswith(VERSION.rpartition(".")[0])


@pytest.mark.parametrize("cut", range(_CUTS))
def test_it_comes_back_from_a_cut_during_a_models_installation(
    board: Board, user: User, moments: random.Random, cut: int
) -> None:
    bundle = (lantern_home().bundles / CHAT / "active").resolve()
    install = ["models", "install", str(bundle), "--to", board.tls_url]
    cut_during(board, user, install, moments.uniform(1.0, 60.0))
    assert "Paris" in user.ask()
