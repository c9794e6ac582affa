"""DNS-SD on the local network: a device announces itself, a program finds it with nothing typed in."""

from __future__ import annotations

from appliance.discovery.announcer import Announcer
from appliance.discovery.browser import Browser
from appliance.discovery.device import Choice, Device, choose
from appliance.discovery.record import Auth, ServiceRecord, State
from appliance.discovery.search import browse, find

__all__ = ["Announcer", "Auth", "Browser", "Choice", "Device", "ServiceRecord", "State", "browse", "choose", "find"]
