"""The one-time code of a claim: its form, how it is compared, its limit, and what a claim remembers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from appliance.access.claim import Claimant, ClaimedError, Claiming, read_claim
from appliance.access.claim_code import ClaimAttemptsError, ClaimCode, ClaimCodeError, grouped, plain, read_code
from appliance.access.keystore import KeyStore


class Clock:
    """A clock that a test sets."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def code(tmp_path: Path, clock: Clock) -> ClaimCode:
    return ClaimCode(tmp_path / "keys" / "claim-code", clock=clock)


def claiming(folder: Path, code: ClaimCode | None, ticket: Path | None = None) -> Claiming:
    made = Claiming(KeyStore(folder / "api"), folder / "claimed.json", is_enabled=True, ticket=ticket, code=code)
    made.start()
    return made


def stranger(code: str | None, name: str = "stranger") -> Claimant:
    return Claimant(name, "192.0.2.9", code, is_local=False)


def test_a_code_is_made_once_in_private_and_kept_over_restarts(code: ClaimCode, tmp_path: Path) -> None:
    path = tmp_path / "keys" / "claim-code"
    assert read_code(path) is None
    made = code.ensure()
    assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}", made)
    assert made == code.ensure() == ClaimCode(path).ensure() == read_code(path)
    assert path.stat().st_mode & 0o777 == 0o600
    others = {ClaimCode(tmp_path / str(i)).ensure() for i in range(20)}
    assert len(others | {made}) == 21


def test_a_code_is_typed_as_people_type(tmp_path: Path) -> None:
    code = ClaimCode(tmp_path / "code", preset="0I1L-AbCd")
    assert code.ensure() == "0111-ABCD"
    for typed in ("0111-ABCD", "0111abcd", " o1il abcd ", "01-11-AB-CD"):
        code.check(typed)
    for typed in ("", "0111-ABC", "0111-ABCDE", "0111-ABCÐ", "-" * 128):
        with pytest.raises(ClaimCodeError, match="not the code"):
            ClaimCode(tmp_path / "code").check(typed)


def test_a_preset_code_takes_the_place_of_a_random_one_and_a_damaged_file_of_none(tmp_path: Path) -> None:
    path = tmp_path / "code"
    random = ClaimCode(path).ensure()
    assert ClaimCode(path, preset="my own code for this device").ensure() == grouped("my own code for this device")
    path.write_bytes(b"\xff\x00")
    assert read_code(path) is None
    assert ClaimCode(path).ensure() not in {random, ""}


def test_five_wrong_codes_a_minute_end_the_guessing_even_of_the_right_one(code: ClaimCode, clock: Clock) -> None:
    right = code.ensure()
    for _ in range(5):
        with pytest.raises(ClaimCodeError):
            code.check("0000-0000")
        clock.now_s += 1
    for given in ("0000-0000", right):
        with pytest.raises(ClaimAttemptsError) as refused:
            code.check(given)
        assert refused.value.retry_after_s == 55
    with pytest.raises(ClaimCodeError, match=r"lantern 0\.2\.0"):
        code.check(None)  # an old client guesses nothing, and counts for nothing
    clock.now_s += 55
    code.check(right)
    with pytest.raises(ClaimCodeError):
        code.check("0000-0000")
    with pytest.raises(ClaimAttemptsError):
        code.check(right)


def test_another_machine_needs_the_code_and_this_one_does_not(tmp_path: Path, code: ClaimCode) -> None:
    door = claiming(tmp_path, code)
    shown = code.ensure()
    for given in (None, "0000-0000"):
        with pytest.raises(ClaimCodeError):
            door.claim(stranger(given))
    assert door.is_open()
    with pytest.raises(ClaimCodeError):
        door.claim(Claimant("local", "127.0.0.1", "0000-0000"))  # a wrong one is wrong from everywhere
    assert door.claim(stranger(shown)).key.name == "stranger"
    with pytest.raises(ClaimedError, match=r"claimed by stranger from 192\.0\.2\.9 on 20\d\d-"):
        door.claim(stranger(shown, "second"))
    assert read_code(tmp_path / "keys" / "claim-code") is None
    local = tmp_path / "local"
    assert claiming(local, ClaimCode(local / "code")).claim(Claimant("me", "127.0.0.1")).key.name == "me"


def test_a_code_is_used_once_and_a_new_ticket_makes_another(tmp_path: Path, code: ClaimCode) -> None:
    ticket = tmp_path / "claim-again"
    claiming(tmp_path, code, ticket).claim(stranger(first := code.ensure()))
    assert read_code(tmp_path / "keys" / "claim-code") is None
    ticket.touch()
    door = claiming(tmp_path, code, ticket)
    second = read_code(tmp_path / "keys" / "claim-code")
    assert second not in {None, first}
    with pytest.raises(ClaimCodeError):
        door.claim(stranger(first, "late"))
    assert door.claim(stranger(second, "owner-2")).key.name == "owner-2"
    assert claiming(tmp_path, code, ticket).is_open() is False
    assert read_code(tmp_path / "keys" / "claim-code") is None


def test_the_first_claims_where_the_settings_say_so(tmp_path: Path) -> None:
    assert claiming(tmp_path, None).claim(stranger(None)).key.name == "stranger"


def test_a_claim_of_the_first_version_stays_a_claim(tmp_path: Path, code: ClaimCode) -> None:
    marker = tmp_path / "claimed.json"
    marker.write_text(json.dumps({"name": "anna", "claimed_s": 1790000000, "ticket": ""}))
    door = claiming(tmp_path, code)
    assert not door.is_open()
    assert read_code(tmp_path / "keys" / "claim-code") is None
    with pytest.raises(ClaimedError, match="claimed by anna on 2026-09-21 at 14:13 UTC"):
        door.claim(stranger(None))


@pytest.mark.parametrize(
    ("marker", "sentence"),
    [
        (b"{}", "This device is claimed."),
        (b"no json", "This device is claimed."),
        (b'{"name": "", "claimed_s": 1790000000}', "This device is claimed."),
        (
            b'{"name": "anna", "address": "192.0.2.9", "claimed_s": 60}',
            "This device is claimed by anna from 192.0.2.9.",
        ),
        (b'{"name": 7, "address": [], "claimed_s": "x"}', "This device is claimed."),
    ],
)
def test_what_a_marker_does_not_tell_is_left_out(tmp_path: Path, marker: bytes, sentence: str) -> None:
    path = tmp_path / "claimed.json"
    assert read_claim(path) is None
    path.write_bytes(marker)
    claim = read_claim(path)
    assert claim is not None
    assert claim.sentence() == sentence


def test_plain_and_grouped_undo_one_another() -> None:
    assert plain(grouped("abcd efgh-jk")) == "ABCDEFGHJK"
    assert grouped("") == ""
