"""A new card in a board: it answers, belongs to who claims it, and is the same after a restart."""

from __future__ import annotations

import re
import subprocess
import time
import urllib.error

import pytest

from images.raspberry_pi.layout import DATA, SECTORS_A_MIB
from tests.images.boots.board import CARD_GIB, Board
from tests.images.boots.figures import tell
from tests.images.boots.user import User

_HOST = r"lantern-[0-9a-f]{8}"


def test_it_answers(board: Board) -> None:
    tell("first start, power-on to /health", f"{board.wait_for_health():.0f} s")


def test_it_belongs_to_who_claims_it_with_the_code_on_its_screen(board: Board, user: User) -> None:
    assert user.key
    with pytest.raises(urllib.error.HTTPError, match="409"):
        user.administer("POST", "/admin/claim", {"name": "somebody-else"})
    assert user.lantern("claim", "--device", board.tls_url).returncode != 0


def test_it_chats(board: Board, user: User) -> None:
    began_s = time.monotonic()
    answer, first_token_s = user.ask_and_watch()
    on_s = board.starts_s[-1]
    tell("first token of a chat after power-on", f"{first_token_s - on_s:.0f} s")
    tell("first token after the question", f"{first_token_s - began_s:.0f} s")
    assert "Paris" in answer


def test_it_embeds(user: User) -> None:
    near, far = user.likeness("a small dog", "a puppy"), user.likeness("a small dog", "an annual tax return")
    assert near > far + 0.2


def test_the_screen_shows_where_it_is_and_its_fingerprint(board: Board, user: User) -> None:
    found = board.wait_for(rf"http://{_HOST}\.local/v1")
    assert found
    board.wait_for(re.escape(user.pin()))
    board.wait_for("This device is claimed by owner from ", timeout_s=120)


def test_it_keeps_the_system_that_it_runs(board: Board) -> None:
    board.wait_for("is healthy and confirmed; no failed unit")


def test_nothing_in_its_log_is_wrong(board: Board) -> None:
    log = board.text()
    for sign in ("type=1326", "ordering cycle", "Failed to start", "DATA LOST", "cannot be used", "Kernel panic"):
        assert sign not in log, [line for line in log.splitlines() if sign in line]


def test_a_restart_changes_nothing_about_who_it_is(board: Board, user: User) -> None:
    host = board.wait_for(_HOST)[0]
    pin, mark = user.pin(), board.mark()
    board.cut_power()
    board.switch_on()
    board.wait_for_health()
    assert board.wait_for(_HOST, since=mark)[0] == host
    assert user.pin() == pin
    assert "Paris" in user.ask()


def test_the_data_partition_fills_the_card(board: Board, user: User) -> None:
    assert user.key
    table = subprocess.run(["sfdisk", "--dump", board.card.path], check=True, capture_output=True, text=True).stdout
    found = re.search(rf"start= *{DATA.start * SECTORS_A_MIB}, size= *(\d+)", table)
    assert found
    end_mib = DATA.start + int(found[1]) // SECTORS_A_MIB
    assert end_mib == CARD_GIB * 1024
    with board.card.path.open("rb") as file:
        file.seek((DATA.start << 20) + 1024 + 4)  # the number of blocks, in ext4's superblock
        blocks = int.from_bytes(file.read(4), "little")
    assert blocks * 4096 > (CARD_GIB * 1024 - DATA.start - 8) << 20
