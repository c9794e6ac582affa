"""The settings with which the service was last ready, for a start with settings that are not valid."""

from __future__ import annotations

from pathlib import Path

from appliance.host.files import write_atomically

_NAME = "lantern.last-good.toml"


class LastGood:
    """The file of the last good settings, in the service's own folder; replaced whole."""

    def __init__(self, root: Path) -> None:
        self._path = root / _NAME

    @property
    def path(self) -> Path | None:
        """The file, if there is one."""
        return self._path if self._path.is_file() else None

    def keep(self, source: Path | None) -> None:
        """Keep a file that worked; None stands for the defaults."""
        data = source.read_bytes() if source is not None else b""
        if self._path.is_file() and self._path.read_bytes() == data:
            return
        write_atomically(self._path, data)
