"""The API keys of this machine: one small file each below one folder, hashed, written atomically.

Commands write, the server reads; a change counts without a restart. A key has 256 random bits, so that its SHA-256
reveals nothing.
"""

from __future__ import annotations

import enum
import hashlib
import logging
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from appliance.errors import ConfigError, ConflictError, UnknownNameError
from appliance.host.files import FolderVersion, folder_version, sync_folder, write_atomically

_LOGGER = logging.getLogger(__name__)

_PREFIX = "sk-lantern-"
_SUFFIX = ".json"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
_MAX_FILE_BYTES = 4096


class Role(enum.StrEnum):
    """The rights of a key; administration includes inference."""

    INFERENCE = "inference"
    ADMINISTRATION = "administration"


class ApiKey(BaseModel):
    """The metadata of a key, without its secret. `rate` is requests a minute."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    name: Annotated[str, Field(pattern=_NAME.pattern)]
    role: Role
    rate: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created_s: int


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key; its secret is shown once and stored nowhere."""

    key: ApiKey
    secret: str


class KeyStore:
    """The files below one folder; safe to use from several processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, name: str, *, role: Role = Role.INFERENCE, rate: int | None = None) -> NewKey:
        """Create a key of this name.

        Raises:
            ConfigError: the name or the rate is not valid.
            ConflictError: the name is taken.
        """
        secret = _PREFIX + secrets.token_urlsafe(32)
        try:
            key = ApiKey(
                id=secrets.token_hex(6),
                name=name,
                role=role,
                rate=rate,
                sha256=hashlib.sha256(secret.encode()).hexdigest(),
                created_s=int(time.time()),
            )
        except ValidationError as err:
            first = err.errors()[0]
            raise ConfigError(
                f"{first['loc'][0]} {first['input']!r} is not valid: names have up to 64 letters, digits, dots, dashes "
                "and underscores; rates are 1 to 1000000 requests a minute."
            ) from err
        self._write(key)
        return NewKey(key, secret)

    def all(self) -> list[ApiKey]:
        """Return every key, sorted by name; a damaged file is left out with a warning."""
        found = []
        for path in sorted(self._paths()):
            try:
                found.append(ApiKey.model_validate_json(path.read_bytes()[:_MAX_FILE_BYTES]))
            except FileNotFoundError:
                continue
            except (OSError, ValidationError):
                _LOGGER.warning(
                    "the key %s cannot be read and does not count; revoke it and create it again", path.stem
                )
        return found

    def set_rate(self, name: str, rate: int | None) -> ApiKey:
        """Give a key another rate, in requests a minute; None for any number.

        Raises:
            UnknownNameError: no key has this name.
        """
        found = next((key for key in self.all() if key.name == name), None)
        if found is None:
            raise self._unknown(name)
        changed = found.model_copy(update={"rate": rate})
        write_atomically(self._folder / f"{name}{_SUFFIX}", changed.model_dump_json(indent=1).encode())
        return changed

    def revoke(self, name: str) -> None:
        """Revoke a key.

        Raises:
            UnknownNameError: no key has this name.
        """
        path = self._folder / f"{name}{_SUFFIX}"
        if path not in self._paths():
            raise self._unknown(name)
        path.unlink()
        sync_folder(self._folder)

    def version(self) -> FolderVersion:
        """Return a value that differs after every change of the keys; cheap."""
        return folder_version(self._folder, _SUFFIX)

    def _unknown(self, name: str) -> UnknownNameError:
        known = ", ".join(p.stem for p in sorted(self._paths())) or "none"
        return UnknownNameError(f"There is no key {name!r}; keys: {known}.")

    def _paths(self) -> set[Path]:
        return {p for p in self._folder.glob(f"*{_SUFFIX}") if _NAME.match(p.stem)}

    def _write(self, key: ApiKey) -> None:
        try:
            write_atomically(
                self._folder / f"{key.name}{_SUFFIX}", key.model_dump_json(indent=1).encode(), replace=False
            )
        except FileExistsError as err:
            raise ConflictError(f"There is a key {key.name!r} already; revoke it, or take another name.") from err
