"""The other devices on the network, searched for when somebody asks for them."""

from __future__ import annotations

from appliance.discovery.browser import Browser
from appliance.discovery.device import Device
from appliance.server.context import Neighbour

_SEARCH_S = 1.5


async def search_neighbours(own_id: str, *, search_s: float = _SEARCH_S) -> list[Neighbour]:
    """Search the network for so long, and return the devices that are not this one.

    Raises:
        DiscoveryError: this machine has no network to search.
    """
    async with Browser() as browser:
        while await browser.changed(search_s):
            pass
        return [_describe(device.secured() or device) for device in browser.devices() if device.id != own_id]


def _describe(device: Device) -> Neighbour:
    name = device.host.rstrip(".")
    return Neighbour(
        name=device.name,
        url=f"{device.record.proto}://{name}:{device.port}/",
        address=device.addresses[0],
        state=device.state.value,
        num_models=device.num_models,
        version=device.version,
    )
