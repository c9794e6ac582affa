"""The device's own id."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from appliance.discovery import Announcer, Auth, ServiceRecord
from appliance.discovery.interfaces import is_real_interface, reach
from appliance.errors import DiscoveryError
from appliance.home import Home
from appliance.identity.device_id import host_name, load_device_id


def test_an_id_is_made_once_and_kept(tmp_path: Path) -> None:
    home = Home(tmp_path / "new")
    first = load_device_id(home)
    assert re.fullmatch(r"[0-9a-f]{16}", first)
    assert load_device_id(home) == first
    assert stat.S_IMODE((home.root / "device-id").stat().st_mode) == 0o600
    assert [path.name for path in home.root.iterdir()] == ["device-id"]


def test_two_homes_have_two_ids_and_two_host_names(tmp_path: Path) -> None:
    ids = {load_device_id(Home(tmp_path / name)) for name in "ab"}
    assert len({host_name(device_id) for device_id in ids}) == 2


def test_a_damaged_id_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "device-id").write_text("hello")
    with pytest.raises(DiscoveryError, match=r"device-id holds no device id; remove it"):
        load_device_id(Home(tmp_path))


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiscoveryError, match="cannot be kept in"):
        load_device_id(Home(tmp_path / "file"))


@pytest.mark.parametrize("name", ["lo", "docker0", "br-1234", "virbr0", "veth12ab", "tun0", "wg0", "tailscale0"])
def test_virtual_links_are_left_out(name: str) -> None:
    assert not is_real_interface(name)


@pytest.mark.parametrize("name", ["eth0", "wlan0", "enp3s0", "end0", "br0", "usb0", "en0"])
def test_real_links_are_used(name: str) -> None:
    assert is_real_interface(name)


def test_a_server_bound_to_one_family_is_reached_by_that_family_only() -> None:
    own = reach(["0.0.0.0"], accept_interface=lambda _name: True)
    assert own.addresses
    assert not any(":" in address for address in own.addresses)
    assert reach(["127.0.0.1"], accept_interface=lambda name: name == "lo").addresses == ("127.0.0.1",)


def test_a_server_that_only_this_machine_reaches_cannot_be_announced() -> None:
    with pytest.raises(DiscoveryError, match=r"bind to 0\.0\.0\.0"):
        Announcer(ServiceRecord("a" * 16, auth=Auth.NONE), name="x", port=1, hosts=["127.0.0.1", "::1"])


def test_a_host_name_cannot_be_announced() -> None:
    with pytest.raises(DiscoveryError, match=r"'box\.example' is none"):
        Announcer(ServiceRecord("a" * 16), name="x", port=1, hosts=["box.example"])
