"""A board that nobody asks anything writes next to nothing, since cards wear out."""

from __future__ import annotations

import os
import time

from tests.images.boots.board import Board
from tests.images.boots.conftest import Idleness
from tests.images.boots.figures import tell

_MINUTES = float(os.environ.get("LANTERN_IDLE_MINUTES", "10"))
_LIMIT_MB_A_DAY = 50.0


def test_an_idle_board_wears_its_card_little(board: Board, idleness: Idleness) -> None:
    end_s = idleness.since_s + 60 * _MINUTES
    while time.monotonic() < end_s:  # the time itself is what is measured over
        time.sleep(1.0)
    minutes = (time.monotonic() - idleness.since_s) / 60
    a_day = (board.written_bytes() - idleness.written_bytes) / 1e6 * 24 * 60 / minutes
    tell("writes of an idle board", f"{a_day:.1f} MB a day, from {minutes:.0f} minutes")
    assert a_day <= _LIMIT_MB_A_DAY
