"""DNS-SD on the local network: a device announces itself, a program finds it with nothing typed in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from appliance.discovery.announcer import Announcer
from appliance.discovery.browser import Browser, browse, find
from appliance.discovery.device import Choice, Device, choose
from appliance.discovery.identity import host_name, load_device_id
from appliance.discovery.record import Auth, ServiceRecord, State

if TYPE_CHECKING:
    from appliance.remote.openai_sdk import async_openai_client, openai_client

__all__ = ["Announcer", "Auth", "Browser", "Choice", "Device", "ServiceRecord", "State"]
__all__ += ["async_openai_client", "browse", "choose", "find", "host_name", "load_device_id", "openai_client"]


def __getattr__(name: str) -> Any:
    """What programs import from here and a device never needs: the layer above is loaded when it is asked for."""
    if name in ("async_openai_client", "openai_client"):
        from appliance.remote import openai_sdk

        return getattr(openai_sdk, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
