"""A board that nobody asks anything writes next to nothing, since cards wear out."""

from __future__ import annotations

import os
import time

from images.workplace import say
from tests.images.boots.board import Board
from tests.images.boots.user import User

_MINUTES = float(os.environ.get("LANTERN_IDLE_MINUTES", "10"))
_LIMIT_MB_A_DAY = 50.0


def test_an_idle_board_wears_its_card_little(board: Board, user: User) -> None:
    assert user.ask()
    board.wait_for("is healthy and confirmed")
    before = board.written_bytes()
    end_s = time.monotonic() + 60 * _MINUTES
    while time.monotonic() < end_s:  # the time itself is what is measured over
        time.sleep(1.0)
    a_day = (board.written_bytes() - before) / 1e6 * 24 * 60 / _MINUTES
    say(f"idle writes: {a_day:.1f} MB a day, from {_MINUTES:.0f} minutes")
    assert a_day <= _LIMIT_MB_A_DAY
