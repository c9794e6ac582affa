"""The run file: the URL of this machine's server, and a key for commands of the same user; written and read here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.host.files import write_atomically

_LOGGER = logging.getLogger(__name__)

_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class RunFile:
    """The content of the run file; `pin` is that of the served certificate, None for plain HTTP.

    `alias` is the short host name that the device holds, None without one.
    """

    url: str
    pin: str | None
    key: str
    alias: str | None = None


@contextlib.asynccontextmanager
async def published_run_file(
    path: Path, url: str, pin: str | None, key: str, *, alias: Callable[[], str | None] = lambda: None
) -> AsyncIterator[Callable[[str | None], Awaitable[None]]]:
    """Write the run file, and remove it when the block is left; yield a function that writes it anew with this pin."""

    async def write(pin: str | None) -> None:
        record = json.dumps({"pid": os.getpid(), "url": url, "pin": pin, "key": key, "alias": alias()}).encode()
        try:
            await asyncio.to_thread(write_atomically, path, record)
        except OSError as err:
            _LOGGER.warning("commands on this machine will not find this server: %s cannot be written: %s", path, err)

    await write(pin)
    try:
        yield write
    finally:
        await asyncio.to_thread(_remove, path, key)


def read_run_file(path: Path) -> RunFile | None:
    """Read the run file; None if it is absent or damaged. A server that was killed leaves its own."""
    try:
        record = json.loads(path.read_bytes()[:_MAX_BYTES])
        pin = record["pin"]
        alias = record.get("alias")
        return RunFile(
            str(record["url"]),
            None if pin is None else str(pin),
            str(record["key"]),
            None if alias is None else str(alias),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remove(path: Path, key: str) -> None:
    """Remove the run file, unless another server wrote its own."""
    found = read_run_file(path)
    if found is not None and found.key == key:
        with contextlib.suppress(OSError):
            path.unlink()
