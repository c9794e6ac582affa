"""Two devices from one image: each makes itself what nobody else may have, at its first start."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2

from appliance.home import Home
from appliance.identity.certificate import pin_of
from tests.conftest import a_config, serving


def first_start(root: Path) -> tuple[Home, dict[str, bytes]]:
    """Start, claim, stop; every file that is there then."""
    home = Home(root)
    config = a_config(server={"claimable": True}, tls={"enabled": True, "port": 0})
    with serving(config, home) as server:
        assert httpx2.post(f"{server.root_url}/admin/claim", json={"name": "owner"}).status_code == 201
    return home, {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_two_first_starts_share_no_identity_and_no_secret(tmp_path: Path) -> None:
    (one, files_of_one), (two, files_of_two) = (first_start(tmp_path / name) for name in ("one", "two"))
    assert set(files_of_one) == set(files_of_two)
    assert {"device-id", "keys/tls.pem", "keys/api/owner.json", "keys/claimed.json"} <= set(files_of_one)
    assert pin_of(one.tls) != pin_of(two.tls)
    for name in ("device-id", "keys/tls.pem", "keys/api/owner.json"):
        assert files_of_one[name] != files_of_two[name], name
    hashes = [json.loads(files["keys/api/owner.json"])["sha256"] for files in (files_of_one, files_of_two)]
    assert hashes[0] != hashes[1]


def test_what_is_secret_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    home, files = first_start(tmp_path / "one")
    for name in files:
        if name.startswith("keys/") or name == "device-id":
            assert (home.root / name).stat().st_mode & 0o077 == 0, name
    assert (home.root / "keys").stat().st_mode & 0o077 == 0
