"""A connection to one device, for commands: who it is was checked, and its key is on every request."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp

from appliance.home import Home
from appliance.remote.patience import ASKED_FOR, ATTEMPT_DELAY_S, Patience
from appliance.remote.pinned_tls import PinnedContext
from appliance.remote.target import Target, target_at, target_named


@dataclass(frozen=True, slots=True)
class OpenDevice:
    """`session` takes paths, as `session.get("/v1/models")`; it connects to no server without the target's pin."""

    target: Target
    session: aiohttp.ClientSession


@contextlib.asynccontextmanager
async def open_device(
    name_or_url: str | None,
    *,
    key: str | None = None,
    search_s: float = 3.0,
    idle_timeout_s: float = 120.0,
    home: Home | None = None,
) -> AsyncIterator[OpenDevice]:
    """Find a device, or take a URL; check who it is, and open a session with its key.

    Args:
        name_or_url: a device's name, host name or id, or a base URL; None chooses among those found.
        key: instead of the one in `LANTERN_API_KEY` or the keyring; an empty one is none.
        search_s: how long to search the network at most.
        idle_timeout_s: how long an answer may bring nothing.
        home: whose known devices count.

    Raises:
        DiscoveryError: nothing was found, or nothing that fits.
        TrustError: it is not who it says it is; nothing was sent.
        ConfigError: no URL, a key that is none, or known devices that cannot be read.
    """
    if name_or_url is not None and is_url(name_or_url):
        target = await target_at(name_or_url, key=key, home=home)
    else:
        target = await target_named(name_or_url, key=key, timeout_s=search_s, home=home)
    async with session_to(target, idle_timeout_s=idle_timeout_s) as session:
        yield OpenDevice(target, session)


def session_to(
    target: Target, *, patience: Patience = ASKED_FOR, idle_timeout_s: float = 120.0
) -> aiohttp.ClientSession:
    """Return a session whose TLS ends with every certificate but the target's.

    The limit is for a connection, of which the addresses of a host are tried beside one another; a request may wait as
    long as it takes for its turn among others of the session.
    """
    connect_s = patience.connect_s + (patience.handshake_s if target.root_url.startswith("https:") else 0.0)
    return aiohttp.ClientSession(
        target.root_url,
        connector=aiohttp.TCPConnector(
            ssl=True if target.pin is None else PinnedContext(target.pin), happy_eyeballs_delay=ATTEMPT_DELAY_S
        ),
        headers={"Authorization": f"Bearer {target.key}"} if target.key else {},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_s, sock_read=idle_timeout_s),
    )


def is_url(text: str) -> bool:
    """Tell if this is a URL, an address or a host with a port, and no device's name."""
    if "://" in text or text.startswith("["):
        return True
    host, colon, port = text.partition("/")[0].rpartition(":")
    if colon and host and port.isdigit():
        return True
    try:
        ipaddress.ip_address(text.partition("/")[0])
    except ValueError:
        return text == "localhost"
    return True
