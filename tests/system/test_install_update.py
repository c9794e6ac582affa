"""Updates of the system image: the installed one, and the record of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from appliance.system.install_update import refusal
from appliance.system.slots import UpdateError, is_newer
from appliance.system.update_state import Step, UpdateState, after_start, keep, load


@pytest.mark.parametrize(
    ("version", "than"), [("0.1.1", "0.1.0"), ("0.10.0", "0.9.9"), ("1.0", "0.99"), ("1.0.1", "1.0")]
)
def test_later_versions_are_newer(version: str, than: str) -> None:
    assert is_newer(version, than)
    assert not is_newer(than, version)
    assert not is_newer(version, version)


@pytest.mark.parametrize("version", ["", "1.x", "v1", "1..2", "1.0\n2", "9" * 40])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(UpdateError):
        is_newer(version, "0.1.0")


def test_an_older_an_equal_and_a_failed_version_are_refused() -> None:
    assert "not newer" in str(refusal("0.1.0", "0.2.0", "", is_confirmed=True))
    assert "not newer" in str(refusal("0.2.0", "0.2.0", "", is_confirmed=True))
    assert "did not become healthy" in str(refusal("0.3.0", "0.2.0", "0.3.0", is_confirmed=True))
    assert refusal("0.3.1", "0.2.0", "0.3.0", is_confirmed=True) is None


def test_a_system_on_trial_takes_no_update() -> None:
    assert "on trial" in str(refusal("0.3.0", "0.2.0", "", is_confirmed=False))


def test_an_installation_that_was_interrupted_is_not_begun_again_by_itself() -> None:
    assert "send it again" in str(refusal("0.3.0", "0.2.0", "", is_confirmed=True, is_interrupted=True))


def test_an_update_that_runs_is_done() -> None:
    state = after_start(UpdateState(Step.RESTARTING, running="0.1.0", version="0.2.0"), "0.2.0")
    assert (state.step, state.running, state.failed) == (Step.DONE, "0.2.0", "")


def test_an_update_after_which_the_old_system_runs_is_not_tried_again() -> None:
    state = after_start(UpdateState(Step.RESTARTING, running="0.1.0", version="0.2.0"), "0.1.0")
    assert (state.step, state.failed) == (Step.FELL_BACK, "0.2.0")
    assert "0.2.0" in state.detail


def test_a_power_cut_during_an_installation_condemns_no_version() -> None:
    state = after_start(UpdateState(Step.INSTALLING, running="0.1.0", version="0.2.0"), "0.1.0")
    assert (state.step, state.failed) == (Step.REFUSED, "")


def test_the_state_is_kept_and_shown(tmp_path: Path) -> None:
    kept, shown = tmp_path / "kept.json", tmp_path / "run/update.json"
    state = UpdateState(Step.REFUSED, running="0.1.0", version="0.0.9", detail="no")
    keep(state, kept, shown)
    assert load(kept) == state == load(shown)
    assert shown.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"step": "odd"}'])
def test_a_damaged_state_counts_as_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "state.json").write_bytes(data)
    assert load(tmp_path / "state.json") == UpdateState()


def test_what_a_later_version_wrote_besides_is_ignored_when_this_one_runs_again(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes(b'{"step": "restarting", "version": "0.9.0", "failed": "0.8.0", "new": 1}')
    assert load(tmp_path / "state.json") == UpdateState(Step.RESTARTING, version="0.9.0", failed="0.8.0")


def test_0_1_0_reads_what_is_written_when_it_runs_again(tmp_path: Path) -> None:
    keep(UpdateState(Step.RESTARTING, "0.1.0", "0.2.0"), tmp_path / "kept.json", tmp_path / "shown.json")
    fields = {"step": "restarting", "running": "0.1.0", "version": "0.2.0", "detail": "", "failed": ""}
    assert json.loads((tmp_path / "kept.json").read_bytes()) == fields
