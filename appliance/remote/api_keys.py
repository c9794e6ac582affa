"""The key for a device: from `LANTERN_API_KEY`, else from the platform's keyring; never from what a device announces.

The package `keyring` is optional (extra `client`), and so is a keyring that works: without either there is no key
here. Keyrings ask other processes, perhaps the user: call these on a thread.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
from types import ModuleType

from appliance.errors import ConfigError

VARIABLE = "LANTERN_API_KEY"
SERVICE = "lantern"
"""Under which the keyring holds our keys; the user name is the device's id, or its name."""


def find_key(*identities: str) -> str | None:
    """Return the key of the first of these identities that has one.

    Raises:
        ConfigError: a key that no header can carry.
    """
    if key := os.environ.get(VARIABLE, ""):
        return clean_key(key)
    if (keyring := _keyring()) is None:
        return None
    for identity in identities:
        with contextlib.suppress(keyring.errors.KeyringError):
            if key := keyring.get_password(SERVICE, identity) or "":
                return clean_key(key)
    return None


def remember_key(identity: str, key: str) -> bool:
    """Put a key into the platform's keyring; False where there is none that works."""
    if (keyring := _keyring()) is None:
        return False
    try:
        keyring.set_password(SERVICE, identity, key)
    except keyring.errors.KeyringError:
        return False
    return True


def forget_key(identity: str) -> bool:
    """Remove a key from the platform's keyring; False where it was not there."""
    if (keyring := _keyring()) is None:
        return False
    try:
        keyring.delete_password(SERVICE, identity)
    except keyring.errors.KeyringError:
        return False
    return True


def clean_key(key: str) -> str | None:
    """Return a key as it goes into a header; None for an empty one.

    Raises:
        ConfigError: it has characters that no key has.
    """
    if not re.fullmatch(r"[!-~]*", key.strip()):
        raise ConfigError("The API key has characters that no key has; was it copied whole?")
    return key.strip() or None


def _keyring() -> ModuleType | None:
    try:
        return importlib.import_module("keyring")
    except ImportError:
        return None
