"""What a person in front of the device reads."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from appliance.image.console import addresses_in, page

_PIN = "sha256//abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG="


def test_a_new_device_says_where_it_is_and_how_to_claim_it() -> None:
    text = page("lantern-0a1b2c3d", ["192.168.1.20", "2001:db8::5"], _PIN, is_claimed=False, problems=[])
    assert "http://lantern-0a1b2c3d.local/v1" in text
    assert "http://192.168.1.20/v1" in text
    assert "http://[2001:db8::5]/v1" in text
    assert _PIN in text
    assert "lantern claim lantern-0a1b2c3d" in text


def test_a_claimed_device_says_so_and_no_more() -> None:
    text = page("lantern-0a1b2c3d", ["192.168.1.20"], _PIN, is_claimed=True, problems=[])
    assert "is claimed" in text
    assert "lantern claim" not in text


def test_without_a_network_it_says_what_to_do() -> None:
    assert "lantern.toml" in page("lantern-0a1b2c3d", [], None, is_claimed=False, problems=[])


def test_what_was_not_understood_is_shown() -> None:
    text = page("h", [], None, is_claimed=False, problems=["lantern.toml: not valid TOML, so nothing of it counts."])
    assert "not valid TOML" in text


def test_addresses_are_found_among_what_ip_leaves_empty() -> None:
    links = """[{}, {"addr_info": [{}, {"local": "2001:db8::5"}, {"local": "192.168.1.20"}]},
                {"addr_info": [{"local": "2001:db8::6", "temporary": true}]}, {"ifname": "wlan0"}]"""
    assert addresses_in(links) == ["192.168.1.20", "2001:db8::5"]
    assert addresses_in("") == []


@pytest.mark.skipif(shutil.which("ip") is None, reason="ip is not installed")
def test_what_this_machines_ip_says_is_understood() -> None:
    command = ["ip", "-json", "address", "show", "scope", "global"]
    assert isinstance(addresses_in(subprocess.run(command, check=True, capture_output=True, text=True).stdout), list)
