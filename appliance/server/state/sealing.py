"""Reasoning sealed with a key of the device: clients send it back, and can neither read nor forge it."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from appliance.errors import ConfigError
from appliance.host.files import write_atomically

_PREFIX = "lr1."  # the format's version, in clear
_NONCE_BYTES = 12
_KEY_BYTES = 32
_PURPOSE = b"lantern reasoning 1"


class Sealer:
    """Seals and opens the text of reasoning; without a key it makes one that lasts as long as the process."""

    def __init__(self, key: bytes | None = None) -> None:
        self._cipher = AESGCM(key if key is not None else AESGCM.generate_key(8 * _KEY_BYTES))

    @classmethod
    def load(cls, path: Path) -> Sealer:
        """Read the device's key, or make it; blocks.

        Raises:
            ConfigError: the file holds no key.
        """
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                write_atomically(path, AESGCM.generate_key(8 * _KEY_BYTES), replace=False)
            key = path.read_bytes()
        if len(key) != _KEY_BYTES:
            raise ConfigError(f"{path} has {len(key)} bytes, not the {_KEY_BYTES} of a key; remove it.")
        return cls(key)

    def seal(self, text: str) -> str:
        """Return the text as `encrypted_content`."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, text.encode(), _PURPOSE)
        return _PREFIX + base64.urlsafe_b64encode(sealed).decode("ascii")

    def open(self, sealed: str) -> str | None:
        """Return the text; None if it was not sealed here, or was changed since."""
        if not sealed.startswith(_PREFIX):
            return None
        try:
            data = base64.b64decode(sealed.removeprefix(_PREFIX), altchars=b"-_", validate=True)
            return self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _PURPOSE).decode()
        except (binascii.Error, InvalidTag, ValueError):
            return None
