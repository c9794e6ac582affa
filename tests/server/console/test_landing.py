"""Plain HTTP on the network answers a landing page where the device has HTTPS; /identity tells who the device is."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from appliance.access.claim_code import read_code
from appliance.home import Home
from appliance.identity.certificate import fingerprints_of
from appliance.identity.device_id import load_device_id
from appliance.server.console.assets import LANDING, PAGE, assets
from tests.conftest import RunningServer, a_config, serving
from tests.server.admin.clients import own_address

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def device(home: Home) -> Iterator[RunningServer]:
    """A new device, on all addresses of this machine."""
    config = a_config(server={"claimable": True, "host": "0.0.0.0"}, tls={"enabled": True, "port": 0})
    with serving(config, home) as server:
        yield server


def name_of(home: Home) -> str:
    return f"lantern-{load_device_id(home)[:8]}.local"


def test_a_name_over_plain_http_leads_to_https_and_never_by_force(device: RunningServer, home: Home) -> None:
    landing, page = assets()[LANDING].plain, assets()[PAGE].plain
    port, secure = device.service.port, f"https://127.0.0.1:{device.service.https_port}"
    origin = f"https://{name_of(home)}:{device.service.https_port}"
    for host in (name_of(home), f"{name_of(home)}:{port}", "192.0.2.7", "[2001:db8::1]:80"):
        answer = httpx2.get(f"{device.root_url}/", headers={"host": host})
        assert (answer.status_code, answer.content) == (200, landing)
        assert f"connect-src 'self' {origin};" in answer.headers["content-security-policy"]
        assert {"strict-transport-security", "location", "refresh"}.isdisjoint(answer.headers.keys())
        assert httpx2.get(f"{device.root_url}/?plain", headers={"host": host}).content == page
    assert httpx2.get(f"{device.root_url}/").content == page  # at the device itself
    with httpx2.Client(verify=False) as client:
        answer = client.get(f"{secure}/", headers={"host": name_of(home)})
        assert answer.content == page
        assert "strict-transport-security" not in answer.headers


def test_without_https_the_page_itself_comes(home: Home) -> None:
    with serving(a_config(server={"claimable": True}), home) as server:
        answer = httpx2.get(f"{server.root_url}/", headers={"host": "192.0.2.7"})
        assert answer.content == assets()[PAGE].plain
        told = httpx2.get(f"{server.root_url}/identity").json()
        assert (told["url"], told["https_port"], told["certificate"]) == (None, None, None)


def test_the_device_tells_who_it_is_and_the_fingerprint_is_the_one_of_openssl(
    device: RunningServer, home: Home
) -> None:
    told = httpx2.get(f"{device.root_url}/identity").json()
    port = device.service.https_port
    assert (told["name"], told["alias"], told["https_port"]) == (name_of(home), None, port)
    assert told["url"] == f"https://{name_of(home)}:{port}/"
    connected = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}"], input=b"", capture_output=True, check=False
    ).stdout
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha256"], input=connected, capture_output=True, check=True
    ).stdout.decode()
    assert shown.strip().rpartition("=")[2] == told["certificate"]["fingerprint"]
    assert told["certificate"]["pin"] == fingerprints_of(home.tls).pin
    assert all(not address.startswith(("127.", "fe80")) for address in told["addresses"])
    assert (read_code(home.claim_code) or "no code") not in json.dumps(told)


def test_it_tells_each_client_if_the_device_can_be_claimed_and_then_by_whom(device: RunningServer, home: Home) -> None:
    def told(**headers: str) -> dict[str, object]:
        answer: dict[str, object] = httpx2.get(f"{device.root_url}/identity", headers=headers).json()
        return answer

    assert (told()["claim"], told()["claimed_by"]) == ("open", None)
    assert told(via="1.1 proxy")["claim"] == "code"
    address = own_address()
    if address is not None:
        assert httpx2.get(f"http://{address}:{device.service.port}/identity").json()["claim"] == "code"
    assert httpx2.post(f"{device.root_url}/admin/claim", json={"name": "anna"}).status_code == 201
    claimed = told()
    assert claimed["claim"] == "claimed"
    by = claimed["claimed_by"]
    assert isinstance(by, dict)
    assert by["name"] == "anna"
    assert by["claimed"] > 1_700_000_000


def test_a_server_that_cannot_be_claimed_says_so_and_other_sites_learn_nothing(home: Home) -> None:
    with serving(a_config(server={"keys": ["sk-configured"]}), home) as server:
        url = f"{server.root_url}/identity"
        assert httpx2.get(url).json()["claim"] == "off"
        assert httpx2.get(url, headers={"sec-fetch-site": "cross-site"}).status_code == 403
        assert httpx2.get(url, headers={"host": "evil.example"}).status_code == 421
