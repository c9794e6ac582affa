"""Who may use and who may administer this server: its keys, its claim, and the commands on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.claiming import Claiming
from appliance.config import ServerConfig
from appliance.errors import ConfigError
from appliance.files import write_whole
from appliance.home import Home
from appliance.keystore import KeyStore
from appliance.server.keys import KeyRing

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Access:
    """The keys of one run. `local_key` is made anew each time, for whoever may read LANTERN_HOME."""

    ring: KeyRing
    store: KeyStore
    claiming: Claiming
    local_key: str


def open_access(server: ServerConfig, home: Home, *, is_exposed: bool, reopen_claim: bool = False) -> Access:
    """Read the keys. A server that others can reach does not do without unless it was told so, or can be claimed.

    Raises:
        ConfigError: there is no key, and nobody said that none is needed.
    """
    store = KeyStore(home.api_keys)
    claiming = Claiming(
        store,
        home.claimed,
        is_enabled=server.claimable or reopen_claim,
        has_fixed_key=bool(server.keys),
        is_reopened=reopen_claim,
        ticket=Path(server.claim_file) if server.claim_file else None,
    )
    if claiming.is_enabled:
        claiming.start()
    must = is_exposed and not server.allow_open
    if must and not server.keys and not store.all() and not claiming.is_enabled:
        raise ConfigError(
            "The network can reach this server and there is no key, so anybody could use it; make one with: "
            "lantern keys create NAME, set LANTERN_API_KEY, or say --no-auth if that is what you want."
        )
    local_key = secrets.token_urlsafe(32)
    ring = KeyRing(
        server.keys,
        store=store,
        required=must or (claiming.is_enabled and not server.allow_open),
        is_claimable=claiming.is_enabled,
        local_key=local_key,
    )
    return Access(ring, store, claiming, local_key)


@contextlib.asynccontextmanager
async def told_locally(
    path: Path, url: str, pin: str | None, key: str
) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Write down where the server listens, and its key, for commands on this machine, until the block is left.

    Gives what tells them of another pin.
    """

    async def tell(pin: str | None) -> None:
        record = json.dumps({"pid": os.getpid(), "url": url, "pin": pin, "key": key}).encode()
        try:
            await asyncio.to_thread(write_whole, path, record)
        except OSError as err:
            _LOGGER.warning("commands on this machine will not find this server: %s cannot be written: %s", path, err)

    await tell(pin)
    try:
        yield tell
    finally:
        await asyncio.to_thread(_forget, path, key)


def _forget(path: Path, key: str) -> None:
    """Unless another server took its place."""
    with contextlib.suppress(OSError, ValueError):
        if json.loads(path.read_bytes())["key"] == key:
            path.unlink()
