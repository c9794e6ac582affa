from __future__ import annotations

import stat
from pathlib import Path

import pytest

from appliance.access.keystore import KeyStore, Role
from appliance.errors import ConfigError, ConflictError


def test_a_key_is_kept_as_a_hash_in_a_private_file(tmp_path: Path) -> None:
    folder = tmp_path / "keys" / "api"
    new = KeyStore(folder).create("phone", role=Role.ADMINISTRATION, rate=30)
    [path] = folder.iterdir()
    assert new.secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert KeyStore(folder).all() == [new.key]


def test_what_root_makes_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    KeyStore(folder).create("a")
    assert {p.stat().st_uid for p in (folder, folder / "a.json")} == {tmp_path.stat().st_uid}


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../a", "a b", "é", "x" * 65, "a\n"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="not valid"):
        KeyStore(tmp_path).create(name)
    with pytest.raises(ConfigError, match="no key"):
        KeyStore(tmp_path).revoke(name)


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    first = store.create("phone")
    with pytest.raises(ConflictError, match="already"):
        store.create("phone")
    assert store.all() == [first.key]


def test_every_change_changes_the_version(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys")
    versions = [store.version()]
    store.create("a")
    versions.append(store.version())
    store.revoke("a")
    versions.append(store.version())
    store.create("a")
    versions.append(store.version())
    assert len({v for v in versions if v}) == 2
    assert versions[0] == versions[2] == frozenset()


def test_a_damaged_file_takes_away_only_its_own_key(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    good = store.create("good")
    store.create("bad")
    (tmp_path / "bad.json").write_text("{")
    assert store.all() == [good.key]
    store.revoke("bad")
