"""The keys of a run: a change is in the files and in memory at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from appliance.access.claim import Claimant, Claiming
from appliance.access.keyring import KeyRing
from appliance.access.keystore import KeyStore, Role
from appliance.access.opening import Access
from appliance.errors import AuthenticationError, ConflictError


@pytest.fixture
def access(tmp_path: Path) -> Access:
    """The access of a new device, whose memory is never refreshed by itself."""
    store = KeyStore(tmp_path / "api")
    claiming = Claiming(store, tmp_path / "claimed.json", is_enabled=True)
    ring = KeyRing([], store=store, required=True, is_claimable=True, refresh_interval_s=3600.0)
    return Access(ring, store, claiming, "local")


def admitted(access: Access, secret: str) -> str:
    return asyncio.run(access.ring.admit([f"Bearer {secret}"])).id


def test_a_key_counts_at_once_and_no_longer_than_it_exists(access: Access) -> None:
    owner = access.claim(Claimant("owner"))
    assert admitted(access, owner.secret) == owner.key.id
    phone = access.create_key("phone", rate=60)
    assert admitted(access, phone.secret) == phone.key.id
    access.revoke_key("phone")
    with pytest.raises(AuthenticationError):
        admitted(access, phone.secret)
    assert [key.name for key in access.store.all()] == ["owner"]


def test_the_last_administration_key_is_not_revoked(access: Access) -> None:
    owner = access.claim(Claimant("owner"))
    access.create_key("phone")
    with pytest.raises(ConflictError, match="last key"):
        access.revoke_key("owner")
    assert admitted(access, owner.secret) == owner.key.id
    access.create_key("second", role=Role.ADMINISTRATION)
    access.revoke_key("owner")
    with pytest.raises(AuthenticationError):
        admitted(access, owner.secret)
