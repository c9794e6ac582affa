"""Updates of a board that is in use: refused, kept, and left again; models, keys and identity stay."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from images.raspberry_pi.image import build_update, sign_update
from images.signing import make_keys, update_keys
from images.workplace import VERSION, run, say
from tests.images.boots.board import MINUTES, Board
from tests.images.boots.user import User


def later(steps: int) -> str:
    """A version after the one in the image."""
    *front, last = VERSION.split(".")
    return ".".join([*front, str(int(last) + steps)])


@pytest.fixture(scope="module")
def nothing(scratch: Path) -> Path:
    """A system with nothing of use in it, for updates that must not get as far as being started."""
    (scratch / "nothing").mkdir(exist_ok=True)
    (scratch / "nothing/noise").write_bytes(random.Random(1).randbytes(1 << 20))
    system = scratch / "nothing.squashfs"
    run("mksquashfs", scratch / "nothing", system, "-noappend", "-quiet", "-no-progress")
    return system


def push(board: Board, user: User, bundle: Path, timeout_s: float = 30 * MINUTES) -> subprocess.CompletedProcess[str]:
    """Push an update as an administrator does."""
    return user.lantern("update", "push", str(bundle), "--device", board.tls_url, "--timeout", str(timeout_s))


def test_an_older_version_is_refused(board: Board, user: User, nothing: Path, scratch: Path) -> None:
    result = push(board, user, sign_update(nothing, scratch / "older", version="0.0.1", keys=update_keys()))
    assert result.returncode != 0
    assert "0.0.1" in result.stderr
    assert board.text().count("=== firmware") == len(board.starts_s)


def test_a_foreign_signature_is_refused(board: Board, user: User, nothing: Path, scratch: Path) -> None:
    keys = scratch / "foreign"
    make_keys(keys)
    result = push(board, user, sign_update(nothing, keys, version=later(1), keys=keys))
    assert result.returncode != 0
    assert "signature" in result.stderr.lower() or "verif" in result.stderr.lower()
    assert "Paris" in user.ask()


def test_a_flipped_bit_is_refused(board: Board, user: User, nothing: Path, scratch: Path) -> None:
    bundle = sign_update(nothing, scratch / "flipped", version=later(1), keys=update_keys())
    data = bytearray(bundle.read_bytes())
    data[len(data) // 3] ^= 1
    bundle.write_bytes(data)
    assert push(board, user, bundle).returncode != 0
    assert "Paris" in user.ask()


def test_an_update_runs_and_everything_stays(board: Board, user: User, scratch: Path) -> None:
    pin, starts = user.pin(), len(board.starts_s)
    bundle = build_update(scratch / "updates", version=later(1))
    result = push(board, user, bundle)
    say(result.stdout)
    assert result.returncode == 0, result.stderr
    assert f"{later(1)} runs" in result.stdout
    assert len(board.starts_s) == starts + 1
    assert board.card.read("slot.txt") == b"os_prefix=b/\n"
    assert user.pin() == pin
    assert "Paris" in user.ask()


def test_an_update_whose_service_dies_is_left_again_and_not_tried_twice(
    board: Board, user: User, scratch: Path
) -> None:
    def breaks(tree: Path) -> None:
        [main] = tree.glob("opt/lantern/lib/python3*/site-packages/appliance/service/__init__.py")
        main.write_text("raise SystemExit('broken on purpose')\n")
        for compiled in main.parent.glob("__pycache__/__init__.*"):
            compiled.unlink()

    bundle = build_update(scratch / "updates", version=later(2), change=breaks)
    board.more = "lantern.deadline=60"
    starts = len(board.starts_s)
    result = push(board, user, bundle, timeout_s=60 * MINUTES)
    board.more = ""
    assert result.returncode != 0
    assert "did not become healthy" in result.stderr
    assert len(board.starts_s) >= starts + 4
    assert board.card.read("slot.txt") == b"os_prefix=b/\n"
    assert "Paris" in user.ask()
    again = push(board, user, bundle)
    assert "did not become healthy" in again.stderr
