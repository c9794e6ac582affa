"""Findings about the disk, each provoked by files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

from appliance.config import Config
from appliance.diagnosis.finding import Level
from appliance.diagnosis.storage import check_responses, check_wear
from appliance.home import Home

_ON_DISK = Config.model_validate({"responses": {"store": "disk"}})
_DAY_S = 86400.0


def board_with(disk: str, root: Path, *, written_bytes: int = 0) -> Path:
    """Write what /sys holds of a disk whose first partition has the number 179:1."""
    partition = root / f"sys/devices/platform/host/block/{disk}/{disk}p1"
    partition.mkdir(parents=True)
    (partition / "partition").write_text("1\n")
    (partition.parent / "stat").write_text(f"9 0 8 7 6 5 {written_bytes // 512} 4 0 3 2\n")
    numbers = root / "sys/dev/block"
    numbers.mkdir(parents=True)
    (numbers / "179:1").symlink_to(partition)
    return root


def test_responses_on_a_memory_card_wear_it(tmp_path: Path) -> None:
    root = board_with("mmcblk0", tmp_path)
    finding = check_wear(Home(tmp_path), _ON_DISK, root, device="179:1", run_s=_DAY_S)
    assert finding is not None
    assert (finding.level, finding.remedy[:3]) == (Level.NOTE, "Set")
    assert "mmcblk0" in finding.text
    in_memory = check_wear(Home(tmp_path), Config(), root, device="179:1", run_s=_DAY_S)
    assert in_memory is not None
    assert in_memory.level is Level.GOOD


def test_a_card_that_takes_many_bytes_a_day_is_named_with_the_number(tmp_path: Path) -> None:
    root = board_with("mmcblk0", tmp_path, written_bytes=12_000_000_000)
    finding = check_wear(Home(tmp_path), Config(), root, device="179:1", run_s=_DAY_S)
    assert finding is not None
    assert finding.level is Level.NOTE
    assert "12.0 GB a day" in finding.text
    soon = check_wear(Home(tmp_path), Config(), root, device="179:1", run_s=60.0)
    assert soon is not None
    assert soon.level is Level.GOOD, "an update right after the start tells nothing about a day"


def test_another_disk_is_no_card(tmp_path: Path) -> None:
    assert check_wear(Home(tmp_path), _ON_DISK, board_with("nvme0n1", tmp_path), device="179:1") is None
    assert check_wear(Home(tmp_path), _ON_DISK, tmp_path / "none", device="0:1") is None


def test_stored_responses_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert check_responses(home, Config()) is None
    empty = check_responses(home, _ON_DISK)
    assert empty is not None
    assert empty.level is Level.GOOD
    home.responses.mkdir()
    (home.responses / "responses-1.db").write_bytes(b"SQLite format 3\0" + bytes(4080))
    whole = check_responses(home, _ON_DISK)
    assert whole is not None
    assert whole.level is Level.GOOD
    (home.responses / "responses-1.db").write_bytes(bytes(4096))
    damaged = check_responses(home, _ON_DISK)
    assert damaged is not None
    assert damaged.level is Level.BAD
    assert "damaged" in damaged.text


def test_a_file_in_the_place_of_their_folder_is_told(tmp_path: Path) -> None:
    Home(tmp_path).responses.write_bytes(b"")
    finding = check_responses(Home(tmp_path), _ON_DISK)
    assert finding is not None
    assert finding.level is Level.BAD
    assert "cannot be written" in finding.text
