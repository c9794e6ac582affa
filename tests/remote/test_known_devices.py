"""The file of known devices: what is remembered, what is refused, and that it is whole whatever happens."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from appliance.errors import ConfigError
from appliance.remote import KnownDevices

_PIN = "sha256//" + "A" * 43 + "="
_OTHER = "sha256//" + "B" * 43 + "="


def test_a_file_that_is_absent_knows_nobody(tmp_path: Path) -> None:
    assert KnownDevices.load(tmp_path / "known_devices").all == ()


def test_a_device_is_known_by_its_name_id_host_and_pin(tmp_path: Path) -> None:
    KnownDevices.load(tmp_path / "known").remember("ab" * 8, _PIN, name="The kitchen")
    known = KnownDevices.load(tmp_path / "known")
    [device] = known.all
    for name in ("the Kitchen", "ab" * 8, "lantern-abababab", "lantern-abababab.local."):
        assert known.named(name) == (device,)
    assert known.named("bath", None) == ()
    assert known.with_pin(_PIN) == device
    assert known.with_pin(_OTHER) is None
    assert (device.identity, device.name) == ("ab" * 8, "The kitchen")


def test_the_file_is_private_and_a_person_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "home" / "known_devices"
    device = KnownDevices.load(path).remember("ab" * 8, _PIN, name="kitchen")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text("utf-8").splitlines()[-1] == f"{'ab' * 8} {_PIN} {device.first_seen} kitchen"
    assert [p.name for p in path.parent.iterdir() if not p.name.startswith(".")] == ["known_devices"]


def test_a_pin_is_never_replaced(tmp_path: Path) -> None:
    known = KnownDevices.load(tmp_path / "known")
    known.remember("ab" * 8, _PIN, name="kitchen")
    with pytest.raises(ConfigError, match="another pin"):
        known.remember("ab" * 8, _OTHER, name="kitchen")
    assert KnownDevices.load(tmp_path / "known").with_pin(_OTHER) is None


def test_a_device_that_is_forgotten_may_come_with_another_pin(tmp_path: Path) -> None:
    known = KnownDevices.load(tmp_path / "known")
    known.remember("ab" * 8, _PIN, name="kitchen")
    known.remember("cd" * 8, _PIN, name="bath")
    assert [device.name for device in known.forget("Kitchen")] == ["kitchen"]
    assert known.forget("kitchen") == ()
    known.remember("ab" * 8, _OTHER, name="kitchen")
    assert {d.name for d in KnownDevices.load(tmp_path / "known").all} == {"bath", "kitchen"}


def test_foreign_names_cannot_write_lines_of_their_own(tmp_path: Path) -> None:
    KnownDevices.load(tmp_path / "known").remember("ab" * 8, _PIN, name=f"x\ncdcdcdcdcdcdcdcd {_OTHER} now y")
    [device] = KnownDevices.load(tmp_path / "known").all
    assert device.pin == _PIN


@pytest.mark.parametrize("line", ["kitchen", f"../x {_PIN} now x", "abababababababab sha256//short now x", "\x00"])
def test_a_line_that_is_damaged_is_an_error_and_not_a_device_to_trust_anew(tmp_path: Path, line: str) -> None:
    (tmp_path / "known").write_text(f"# comment\n\n{line}\n", "utf-8")
    with pytest.raises(ConfigError, match="Line 3"):
        KnownDevices.load(tmp_path / "known")


def test_programs_that_remember_at_once_lose_nothing(tmp_path: Path) -> None:
    def remember(number: int) -> None:
        KnownDevices.load(tmp_path / "known").remember(f"{number:016x}", _PIN, name=f"device {number}")

    threads = [threading.Thread(target=remember, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(KnownDevices.load(tmp_path / "known").all) == 16
