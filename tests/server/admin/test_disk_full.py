"""A full disk: refused before a byte where that can be known, kept and resumed where it cannot, and serving goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.errors import StorageFullError
from appliance.server.http.errors import error_headers
from appliance.system.incoming_update import IncomingUpdate
from tests.bundle.workshop import install_untried, snapshot
from tests.install.tiny_bundles import TinyDevice
from tests.server.admin.clients import Administrator, administered, error_of

_SIZE_MIB = 96
_RESERVE_MIB = 64


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own below the device's home."""
    home = tmp_path / "home"
    home.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE_MIB}m", "lantern-test", str(home)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    yield home
    subprocess.run(["umount", "--lazy", str(home)], check=True)


@pytest.fixture
def device(small_disk: Path) -> TinyDevice:
    made = TinyDevice(small_disk.parent)
    install_untried(made.store, made.make(name="other"))
    return made


@pytest.fixture
def admin(device: TinyDevice) -> Iterator[Administrator]:
    with administered(device) as administrator:
        yield administrator


def fill(disk: Path) -> Path:
    """Take every byte."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * (1 << 16))
        except OSError:
            return ballast


def test_what_does_not_fit_beside_the_reserve_is_refused_before_a_byte(
    admin: Administrator, device: TinyDevice, small_disk: Path
) -> None:
    before = snapshot(device.store.root)
    refused = admin.begin(device.make(padding=b"p" * ((_SIZE_MIB - _RESERVE_MIB) << 20)))
    assert refused.status_code == 507
    assert "MiB are free" in error_of(refused)["message"]
    assert snapshot(device.store.root) == before
    assert admin.vector(model="other")


def test_two_uploads_are_not_promised_the_same_space(admin: Administrator, device: TinyDevice) -> None:
    assert admin.begin(device.make(1, name="one", padding=b"1" * (20 << 20))).status_code == 201
    assert admin.begin(device.make(2, name="two", padding=b"2" * (20 << 20))).status_code == 507


def test_a_disk_that_fills_in_the_middle_keeps_what_came_and_goes_on_later(
    admin: Administrator, device: TinyDevice, small_disk: Path
) -> None:
    made = device.make(3, padding=b"p" * (8 << 20))
    upload = admin.begin(made).json()
    half, size = 4 << 20, 8 << 20
    first = admin.put(upload["id"], "padding.bin", b"p" * half, content_range=f"bytes 0-{half - 1}/{size}")
    assert first.status_code == 200
    ballast = fill(small_disk)
    refused = admin.put(upload["id"], "padding.bin", b"p" * half, content_range=f"bytes {half}-{size - 1}/{size}")
    assert refused.status_code == 507
    assert error_of(refused)["code"] == "insufficient_storage"
    assert admin.vector(model="other")
    ballast.unlink()
    assert admin.push(made).status_code == 200
    assert admin.vector()


def test_on_a_full_disk_nothing_else_breaks(admin: Administrator, device: TinyDevice, small_disk: Path) -> None:
    fill(small_disk)
    for method, path, body in (
        ("POST", "/admin/keys", {"name": "phone"}),
        ("PUT", "/admin/aliases/small", {"model": "other"}),
    ):
        refused = admin.ask(method, path, body)
        assert refused.status_code == 507, refused.text
        assert error_of(refused)["code"] == "insufficient_storage"
    assert admin.vector(model="other")
    assert admin.ask("DELETE", "/admin/models/other").status_code == 200  # which is how space is made
    assert admin.begin(device.make(4)).status_code in {201, 507}


def test_a_full_disk_tells_no_client_to_come_back(small_disk: Path) -> None:
    version = small_disk / "version"
    version.write_text("0.1.0")
    incoming = IncomingUpdate(small_disk / "update", state=small_disk / "state.json", version=version)
    with pytest.raises(StorageFullError, match="MiB are free") as caught:
        incoming.begin(_SIZE_MIB << 20)
    assert caught.value.status == 507
    assert error_headers(caught.value) == {"x-should-retry": "false"}
