"""The page on the screen of the device."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import segno

from appliance.access.claim import ClaimRecord
from appliance.identity.certificate import Fingerprints
from appliance.system.console import Screen, addresses_in, page
from appliance.system.screen_code import screen_code

_CERTIFICATE = ":".join(f"{byte:02X}" for byte in range(160, 192))
_PRINTS = Fingerprints("sha256//abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG=", _CERTIFICATE)
_HOST = "lantern-0a1b2c3d"
_ADDRESSES = ("192.168.1.20", "2001:db8::5")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def test_a_new_device_says_where_it_is_and_how_to_claim_it() -> None:
    text = page(Screen(_HOST, _ADDRESSES, "lantern.local", _PRINTS, code="7K3M-2QXD"))
    for url in ("http://lantern.local/", f"https://{_HOST}.local/", "https://192.168.1.20/", "https://[2001:db8::5]/"):
        assert url in text
    assert _PRINTS.pin in text
    assert _CERTIFICATE in "".join(text.split())
    assert "Claim code  7K3M-2QXD" in text
    assert "lantern claim --device lantern-0a1b2c3d --code 7K3M-2QXD" in text


def test_it_fits_a_screen_of_thirty_lines_and_eighty_columns_code_and_all() -> None:
    lines = page(Screen(_HOST, _ADDRESSES[:1], "lantern.local", _PRINTS, code="7K3M-2QXD")).splitlines()
    assert len(lines) < 30
    many = page(Screen(_HOST, tuple(f"2001:db8::{i}" for i in range(50)), "lantern.local", _PRINTS)).splitlines()
    assert len(many) < 30
    assert max(len(_ANSI.sub("", line)) for line in lines) <= 80


def test_a_device_for_the_first_that_asks_says_so() -> None:
    text = page(Screen(_HOST, _ADDRESSES, None, _PRINTS))
    assert "http://lantern-0a1b2c3d.local/v1" in text
    assert "http://192.168.1.20/v1" in text
    assert "http://[2001:db8::5]/v1" in text
    assert "lantern claim --device lantern-0a1b2c3d" in text
    assert "Claim code" not in text
    assert "lantern.local" not in text


def test_a_claimed_device_says_by_whom_and_no_more() -> None:
    text = page(Screen(_HOST, _ADDRESSES, None, _PRINTS, claim=ClaimRecord("anna", "192.168.1.7", 1790000000)))
    assert "This device is claimed by anna from 192.168.1.7 on 2026-09-21 at 14:13 UTC." in text
    assert "http://192.168.1.20/v1" in text
    assert "lantern claim" not in text


def test_a_device_that_may_be_claimed_again_says_both() -> None:
    text = page(Screen(_HOST, _ADDRESSES, None, _PRINTS, code="7K3M-2QXD", claim=ClaimRecord("anna")))
    assert "claimed by anna" in text
    assert "once more" in text
    assert "7K3M-2QXD" in text


def test_without_a_network_it_says_what_to_do() -> None:
    assert "lantern.toml" in page(Screen(_HOST))


def test_what_was_not_understood_is_shown() -> None:
    text = page(Screen("h", problems=("lantern.toml: not valid TOML, so nothing of it counts.",)))
    assert "not valid TOML" in text


def test_the_code_for_a_camera_has_every_module_where_it_belongs() -> None:
    lines = [_ANSI.sub("", line) for line in screen_code("https://lantern-0a1b2c3d.local/#claim=7K3M-2QXD")]
    halves = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}
    rows = [[halves[char][half] for char in line] for line in lines for half in (0, 1)]
    code = segno.make_qr("https://lantern-0a1b2c3d.local/#claim=7K3M-2QXD", error="l")
    wanted = [list(row) for row in code.matrix_iter(border=2)]
    assert rows[: len(wanted)] == wanted
    assert all(module == 0 for row in rows[len(wanted) :] for module in row)


def test_addresses_are_found_among_what_ip_leaves_empty() -> None:
    links = """[{}, {"addr_info": [{}, {"local": "2001:db8::5"}, {"local": "192.168.1.20"}]},
                {"addr_info": [{"local": "2001:db8::6", "temporary": true}]}, {"ifname": "wlan0"}]"""
    assert addresses_in(links) == ["192.168.1.20", "2001:db8::5"]
    assert addresses_in("") == []


@pytest.mark.skipif(shutil.which("ip") is None, reason="ip is not installed")
def test_what_this_machines_ip_says_is_understood() -> None:
    command = ["ip", "-json", "address", "show", "scope", "global"]
    assert isinstance(addresses_in(subprocess.run(command, check=True, capture_output=True, text=True).stdout), list)
