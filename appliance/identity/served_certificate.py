"""The certificate that a server shows, read anew when its files change, while connections go on.

Each change is a context of its own, so that nobody resumes a session of the former key. Files that cannot be used, half
written or no pair, leave the former certificate in use. Lives on the event loop; the files are read on a thread.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from appliance.background import run_in_background
from appliance.errors import ConfigError
from appliance.identity.certificate import Fingerprints, fingerprints_of, server_context

_LOGGER = logging.getLogger(__name__)

_Version: TypeAlias = tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class _Pair:
    """Certificate and key as they were at one time; `version` differs as soon as one of the files does."""

    context: ssl.SSLContext
    fingerprints: Fingerprints
    version: _Version


class ServedCertificate:
    """The certificate that new connections get; owned by one event loop."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read the files, which may be one.

        Raises:
            ConfigError: they cannot be used.
        """
        self._files = (certificate, key)
        self._pair = _read(*self._files)
        self._trouble = ""

    @property
    def context(self) -> ssl.SSLContext:
        """For handshakes from now on."""
        return self._pair.context

    @property
    def pin(self) -> str:
        """The pin that `lantern fingerprint` prints."""
        return self._pair.fingerprints.pin

    @property
    def fingerprints(self) -> Fingerprints:
        """The pin, and the fingerprint that browsers show."""
        return self._pair.fingerprints

    def followed(
        self, on_change: Callable[[], Awaitable[None]], *, interval_s: float = 2.0
    ) -> AbstractAsyncContextManager[None]:
        """Look at the files again and again until the block is left; `on_change` is called when they have been read."""

        async def follow() -> None:
            while True:
                await asyncio.sleep(interval_s)
                if await self._read_changes():
                    await on_change()

        return run_in_background(follow(), name="certificate")

    async def _read_changes(self) -> bool:
        """Take what is there now; False when that is nothing new, or nothing that can be used."""
        try:
            pair = await asyncio.to_thread(_read_again, self._files, self._pair.version)
        except ConfigError as err:
            if err.message != self._trouble:  # a trouble that lasts is one line, however often it is met
                _LOGGER.warning("%s The former certificate stays in use.", err.message)
            self._trouble = err.message
            return False
        self._trouble = ""
        if pair is None:
            return False
        what = "is a new one" if pair.fingerprints.pin != self.pin else "was renewed"
        self._pair = pair
        _LOGGER.info("The certificate %s; its pin is %s", what, pair.fingerprints.pin)
        return True


def _read_again(files: tuple[Path, Path], known: _Version) -> _Pair | None:
    """Read the pair again; None if it is still the known one."""
    return None if _version(*files) == known else _read(*files)


def _read(certificate: Path, key: Path) -> _Pair:
    version = _version(certificate, key)
    pair = _Pair(server_context(certificate, key), fingerprints_of(certificate), version)
    if _version(certificate, key) != version:
        raise ConfigError(f"The certificate {certificate} is being written.")
    return pair


def _version(*files: Path) -> _Version:
    """Return a value that every change of a file changes: another file, another content, another owner or mode."""
    try:
        found = [path.stat() for path in files]
    except OSError as err:
        raise ConfigError(f"The certificate {files[0]} cannot be read: {err.filename}: {err.strerror}.") from err
    return tuple((one.st_dev, one.st_ino, one.st_ctime_ns, one.st_size) for one in found)
