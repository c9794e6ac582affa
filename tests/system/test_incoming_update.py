"""An update that arrives: handed over whole, resumed after a cut, or refused and removed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from appliance.errors import ConflictError, InvalidRequestError, UnavailableError
from appliance.host.partial_file import UploadNotFoundError
from appliance.system.incoming_update import MAX_BYTES, IncomingUpdate, UpdateUpload
from appliance.system.update_state import Step, UpdateState, keep

_DATA = bytes(range(256)) * 40
_SHA256 = hashlib.sha256(_DATA).hexdigest()
_OTHER = hashlib.sha256(b"other").hexdigest()


@pytest.fixture
def incoming(tmp_path: Path) -> IncomingUpdate:
    (tmp_path / "version").write_text("0.1.0\n")
    return elsewhere(tmp_path)


def elsewhere(tmp_path: Path) -> IncomingUpdate:
    """The same files, read by another process."""
    return IncomingUpdate(tmp_path / "update", state=tmp_path / "state.json", version=tmp_path / "version")


def send(upload: UpdateUpload, data: bytes = _DATA) -> None:
    [file] = upload.files
    offset = file.received()
    while offset < len(data):
        offset = file.append(offset, data[offset : offset + 1000])


def test_a_whole_update_is_handed_over(incoming: IncomingUpdate) -> None:
    send(incoming.begin(len(_DATA), _SHA256))
    incoming.finish(_SHA256)
    assert incoming.ready.read_bytes() == _DATA
    assert incoming.ready.stat().st_mode & 0o077 == 0
    assert incoming.status().state.step is Step.WAITING


def test_an_upload_that_was_cut_goes_on_where_it_stopped_even_in_another_process(
    incoming: IncomingUpdate, tmp_path: Path
) -> None:
    incoming.begin(len(_DATA), _SHA256).files[0].append(0, _DATA[:4000])
    resumed = elsewhere(tmp_path).begin(len(_DATA), _SHA256)
    assert resumed.files[0].received() == 4000
    send(resumed)
    elsewhere(tmp_path).finish(_SHA256)
    assert incoming.ready.read_bytes() == _DATA


def test_one_that_changed_on_its_way_is_removed(incoming: IncomingUpdate) -> None:
    send(incoming.begin(len(_DATA), _OTHER))
    with pytest.raises(InvalidRequestError, match="send it again"):
        incoming.finish(_OTHER)
    assert not incoming.ready.exists()
    assert incoming.begin(len(_DATA), _OTHER).files[0].received() == 0


def test_one_that_is_not_complete_is_not_handed_over(incoming: IncomingUpdate) -> None:
    incoming.begin(len(_DATA), _SHA256).files[0].append(0, _DATA[:4000])
    with pytest.raises(ConflictError, match="6240 bytes"):
        incoming.finish(_SHA256)
    assert incoming.get(_SHA256).files[0].received() == 4000


def test_what_was_not_begun_takes_no_piece_and_is_not_handed_over(incoming: IncomingUpdate) -> None:
    with pytest.raises(ConflictError, match="No update was begun"):
        incoming.check_begun()
    with pytest.raises(ConflictError, match="No update was begun"):
        incoming.finish("0" * 64)
    for ask in (incoming.get, incoming.remove):
        with pytest.raises(UploadNotFoundError):
            ask(_SHA256)
    assert incoming.all() == []


def test_a_machine_without_an_image_takes_nothing_at_all(tmp_path: Path) -> None:
    incoming = elsewhere(tmp_path)
    for step in (
        incoming.status,
        lambda: incoming.begin(1),
        lambda: incoming.begin(1, _SHA256),
        lambda: incoming.get(_SHA256),
        incoming.check_begun,
        lambda: incoming.finish("0" * 64),
    ):
        with pytest.raises(UnavailableError, match="as it was installed"):
            step()
    assert not (tmp_path / "update").exists()


def test_a_piece_goes_on_where_the_last_one_ended(incoming: IncomingUpdate) -> None:
    incoming.begin(10)
    assert incoming.unnamed_file().append(0, b"12345") == 5
    with pytest.raises(ConflictError, match="5 bytes of the update are here"):
        incoming.unnamed_file().append(4, b"x")
    assert incoming.status().received == 5


@pytest.mark.parametrize("sha256", [None, _OTHER])
def test_beginning_another_one_removes_the_last_attempt(incoming: IncomingUpdate, sha256: str | None) -> None:
    incoming.begin(len(_DATA), _SHA256).files[0].append(0, _DATA[:4000])
    incoming.begin(len(_DATA), sha256)
    assert incoming.status().received == 0
    with pytest.raises(UploadNotFoundError):
        incoming.get(_SHA256)


def test_half_an_upload_of_0_1_0_goes_on_with_its_client_and_is_not_taken_for_another(
    incoming: IncomingUpdate, tmp_path: Path
) -> None:
    (tmp_path / "update").mkdir()
    (tmp_path / "update" / "incoming").write_bytes(_DATA[:4000])
    incoming.check_begun()
    assert incoming.status().received == 4000
    assert incoming.all() == []
    incoming.unnamed_file().append(4000, _DATA[4000:])
    incoming.finish(_SHA256)
    assert incoming.ready.read_bytes() == _DATA
    incoming.ready.unlink()
    (tmp_path / "update" / "incoming").write_bytes(b"of another update")
    assert incoming.begin(len(_DATA), _SHA256).files[0].received() == 0


def test_none_is_taken_while_another_one_is_installed(incoming: IncomingUpdate) -> None:
    send(incoming.begin(len(_DATA), _SHA256))
    incoming.finish(_SHA256)
    for sha256 in (None, _OTHER):
        with pytest.raises(ConflictError):
            incoming.begin(10, sha256)
    with pytest.raises(ConflictError):
        incoming.remove(_SHA256)


def test_a_client_that_did_not_hear_the_end_may_ask_again(incoming: IncomingUpdate) -> None:
    send(incoming.begin(len(_DATA), _SHA256))
    incoming.finish(_SHA256)
    again = incoming.begin(len(_DATA), _SHA256)
    assert (again.is_handed_over, again.files[0].received()) == (True, len(_DATA))
    incoming.finish(_SHA256)
    assert incoming.ready.read_bytes() == _DATA


def test_what_cannot_be_one_is_refused_before_a_byte_is_written(incoming: IncomingUpdate) -> None:
    with pytest.raises(InvalidRequestError):
        incoming.begin(MAX_BYTES + 1, _SHA256)
    assert incoming.status().received == 0


def test_an_upload_that_is_removed_is_gone(incoming: IncomingUpdate, tmp_path: Path) -> None:
    send(incoming.begin(len(_DATA), _SHA256))
    incoming.remove(_SHA256)
    assert list((tmp_path / "update").iterdir()) == []


@pytest.mark.parametrize("record", ["", "{", "[]", "{}", '{"size_bytes": "x", "sha256": "y"}', '{"sha256": null}'])
def test_a_damaged_record_costs_the_bytes_and_nothing_else(
    incoming: IncomingUpdate, tmp_path: Path, record: str
) -> None:
    send(incoming.begin(len(_DATA), _SHA256))
    (tmp_path / "update" / "incoming.json").write_text(record)
    assert incoming.all() == []
    send(incoming.begin(len(_DATA), _SHA256))
    incoming.finish(_SHA256)


def test_a_damaged_state_says_nothing(incoming: IncomingUpdate, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    assert incoming.status().state == UpdateState(running="0.1.0")


def test_what_the_installing_unit_wrote_is_told(incoming: IncomingUpdate, tmp_path: Path) -> None:
    keep(UpdateState(Step.FELL_BACK, "0.0.9", "0.2.0", "no", "0.2.0"), tmp_path / "kept.json", tmp_path / "state.json")
    told = incoming.status().state
    assert told == UpdateState(Step.FELL_BACK, running="0.1.0", version="0.2.0", detail="no", failed="0.2.0")
    send(incoming.begin(len(_DATA), _SHA256))
    incoming.finish(_SHA256)
    keep(UpdateState(Step.INSTALLING, "0.1.0", "0.3.0"), tmp_path / "kept.json", tmp_path / "state.json")
    assert json.loads((tmp_path / "state.json").read_bytes())["step"] == "installing"
    assert incoming.status().state.step is Step.INSTALLING
