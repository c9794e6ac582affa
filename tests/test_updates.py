"""An update on its way in: whole and handed over, or refused and forgotten."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from appliance.errors import ConflictError, InvalidRequestError, UnavailableError
from appliance.server.admin.response_schema import UpdateState
from appliance.updates import MAX_BYTES, IncomingUpdate

_DATA = bytes(range(256)) * 40


@pytest.fixture
def incoming(tmp_path: Path) -> IncomingUpdate:
    (tmp_path / "version").write_text("0.1.0\n")
    return IncomingUpdate(tmp_path / "update", state=tmp_path / "state.json", version=tmp_path / "version")


def send(incoming: IncomingUpdate, data: bytes = _DATA) -> None:
    incoming.begin(len(data))
    for offset in range(0, len(data), 1000):
        incoming.write(offset, data[offset : offset + 1000])


def test_a_whole_update_is_handed_over(incoming: IncomingUpdate) -> None:
    send(incoming)
    incoming.finish(hashlib.sha256(_DATA).hexdigest())
    assert incoming.ready.read_bytes() == _DATA
    assert incoming.ready.stat().st_mode & 0o077 == 0
    assert UpdateState.model_validate(incoming.describe()).step == "waiting"


def test_one_that_changed_on_its_way_is_forgotten(incoming: IncomingUpdate) -> None:
    send(incoming)
    with pytest.raises(InvalidRequestError, match="send it again"):
        incoming.finish(hashlib.sha256(b"other").hexdigest())
    assert not incoming.ready.exists()
    assert incoming.received() == 0


def test_what_was_not_begun_takes_no_piece_and_is_not_handed_over(incoming: IncomingUpdate) -> None:
    with pytest.raises(ConflictError, match="No update was begun"):
        incoming.write(0, b"x")
    with pytest.raises(ConflictError, match="No update was begun"):
        incoming.finish("0" * 64)


def test_a_machine_without_an_image_takes_nothing_at_all(tmp_path: Path) -> None:
    elsewhere = IncomingUpdate(tmp_path / "update", state=tmp_path / "state.json", version=tmp_path / "version")
    for step in (lambda: elsewhere.begin(1), lambda: elsewhere.write(0, b"x"), lambda: elsewhere.finish("0" * 64)):
        with pytest.raises(UnavailableError, match="as it was installed"):
            step()


def test_a_piece_goes_on_where_the_last_one_ended(incoming: IncomingUpdate) -> None:
    incoming.begin(10)
    assert incoming.write(0, b"12345") == 5
    with pytest.raises(ConflictError, match="5 bytes are there"):
        incoming.write(4, b"x")
    assert incoming.describe()["received"] == 5


def test_beginning_again_forgets_the_last_attempt(incoming: IncomingUpdate) -> None:
    incoming.begin(10)
    incoming.write(0, b"12345")
    incoming.begin(10)
    assert incoming.received() == 0


def test_none_is_taken_while_one_is_installed(incoming: IncomingUpdate) -> None:
    send(incoming)
    incoming.finish(hashlib.sha256(_DATA).hexdigest())
    with pytest.raises(ConflictError):
        incoming.begin(10)


def test_what_cannot_be_one_is_refused_before_a_byte_is_written(incoming: IncomingUpdate) -> None:
    with pytest.raises(InvalidRequestError):
        incoming.begin(MAX_BYTES + 1)
    assert incoming.received() == 0


def test_a_machine_without_an_image_says_how_it_is_updated(tmp_path: Path) -> None:
    incoming = IncomingUpdate(tmp_path / "update", version=tmp_path / "absent")
    with pytest.raises(UnavailableError, match="package"):
        incoming.describe()
    with pytest.raises(UnavailableError, match="package"):
        incoming.begin(10)
    assert not (tmp_path / "update").exists()


def test_a_damaged_state_says_nothing(incoming: IncomingUpdate, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    assert incoming.describe()["step"] == "none"
