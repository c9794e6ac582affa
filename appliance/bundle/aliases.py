"""Aliases of installed models that were set while the device runs, in one small file; the settings have others."""

from __future__ import annotations

import json
import re
from pathlib import Path

from appliance.errors import ConfigError, UnknownNameError
from appliance.host.files import write_atomically

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}$")
_MAX_ALIASES = 256
_MAX_BYTES = 1 << 17


class Aliases:
    """The file of aliases; read before each use, and changed while the store's lock is held."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> dict[str, str]:
        """Return alias to model; empty if the file is absent or damaged."""
        try:
            raw = json.loads(self._path.read_bytes()[:_MAX_BYTES])
        except (OSError, ValueError):
            return {}
        if not isinstance(raw, dict):
            return {}
        return {a: m for a, m in sorted(raw.items()) if _NAME.match(a) and isinstance(m, str)}

    def set(self, alias: str, model: str) -> None:
        """Point an alias to a model, and replace the alias if it exists.

        Raises:
            ConfigError: the alias is not valid, or there are too many.
        """
        if not _NAME.match(alias):
            raise ConfigError(
                f"The alias {alias[:140]!r} is not valid: up to 128 letters, digits and any of . _ : / @ + -, the "
                "first a letter or a digit."
            )
        aliases = {**self.all(), alias: model}
        if len(aliases) > _MAX_ALIASES:
            raise ConfigError(f"There are {_MAX_ALIASES} aliases already; remove one.")
        self._write(aliases)

    def remove(self, alias: str) -> None:
        """Remove an alias.

        Raises:
            UnknownNameError: no alias has this name.
        """
        aliases = self.all()
        if aliases.pop(alias, None) is None:
            known = ", ".join(aliases) or "none"
            raise UnknownNameError(f"There is no alias {alias[:140]!r} to remove; aliases given here: {known}.")
        self._write(aliases)

    def forget_model(self, model: str) -> None:
        """Remove every alias of a model that was removed."""
        aliases = self.all()
        kept = {a: m for a, m in aliases.items() if m != model}
        if kept != aliases:
            self._write(kept)

    def _write(self, aliases: dict[str, str]) -> None:
        write_atomically(self._path, json.dumps(aliases, sort_keys=True, indent=1).encode())
