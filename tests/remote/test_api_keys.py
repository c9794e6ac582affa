"""Sources of a key, in their order, and keys that cannot be sent."""

from __future__ import annotations

import keyring
import pytest
from keyring.backends.fail import Keyring as NoKeyring

from appliance.errors import ConfigError
from appliance.remote.api_keys import find_key, forget_key, remember_key

from .conftest import MemoryKeyring


def test_the_environment_goes_before_the_keyring(
    platform_keyring: MemoryKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert remember_key("a" * 16, "from-the-keyring")
    assert find_key("a" * 16) == "from-the-keyring"
    monkeypatch.setenv("LANTERN_API_KEY", " from-the-environment ")
    assert find_key("a" * 16) == "from-the-environment"


def test_the_first_name_that_the_keyring_knows_gives_the_key(platform_keyring: MemoryKeyring) -> None:
    remember_key("kitchen", "by-name")
    assert find_key("a" * 16, "kitchen") == "by-name"
    assert find_key("b" * 16, "bath") is None


def test_a_key_is_forgotten_once(platform_keyring: MemoryKeyring) -> None:
    remember_key("kitchen", "x")
    assert forget_key("kitchen")
    assert not forget_key("kitchen")


def test_a_machine_without_a_keyring_has_no_key_and_no_trouble() -> None:
    former = keyring.get_keyring()
    keyring.set_keyring(NoKeyring())  # type: ignore[no-untyped-call]
    try:
        assert find_key("a" * 16) is None
        assert not remember_key("a" * 16, "x")
        assert not forget_key("a" * 16)
    finally:
        keyring.set_keyring(former)


@pytest.mark.parametrize("key", ["two\nlines", "sp ace", "ümlaut"])
def test_a_key_that_no_header_can_carry_is_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANTERN_API_KEY", key)
    with pytest.raises(ConfigError, match="copied whole"):
        find_key("a" * 16)
