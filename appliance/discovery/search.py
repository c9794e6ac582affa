"""Searches of the local network: a browser that is open for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from appliance.discovery.browser import Browser
from appliance.discovery.device import Device
from appliance.discovery.interfaces import is_real_interface


async def find(
    *, timeout_s: float | None = 3.0, accept_interface: Callable[[str], bool] = is_real_interface
) -> AsyncGenerator[Device, None]:
    """Yield each device as it is found; without a timeout, for as long as it is iterated.

    Raises:
        DiscoveryError: this machine has no network.
    """
    loop = asyncio.get_running_loop()
    deadline_s = None if timeout_s is None else loop.time() + timeout_s
    seen: set[object] = set()
    async with Browser(accept_interface=accept_interface) as browser:
        while await browser.changed(None if deadline_s is None else max(0.0, deadline_s - loop.time())):
            for device in browser.devices():
                if device.identity not in seen:
                    seen.add(device.identity)
                    yield device


async def browse(
    *,
    timeout_s: float = 3.0,
    settle_s: float | None = None,
    enough: Callable[[list[Device]], bool] = bool,
    accept_interface: Callable[[str], bool] = is_real_interface,
) -> list[Device]:
    """Search for `timeout_s` and return the devices that answered, by name.

    Args:
        timeout_s: how long to listen at most.
        settle_s: stop earlier, this long after the last difference, once there is enough.
        enough: whether the devices found so far will do; any device will, unless told otherwise.
        accept_interface: which links to search.

    Raises:
        DiscoveryError: this machine has no network.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    async with Browser(accept_interface=accept_interface) as browser:
        while True:
            found = list(browser.devices())
            remaining_s = max(0.0, deadline_s - loop.time())
            settled_s = remaining_s if settle_s is None or not enough(found) else min(remaining_s, settle_s)
            if not await browser.changed(settled_s):
                return list(browser.devices())
