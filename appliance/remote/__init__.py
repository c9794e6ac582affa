"""The client's side of a device: who it is, which key it may see, and a connection to it."""

from __future__ import annotations

from appliance.remote.known_devices import KnownDevice, KnownDevices
from appliance.remote.session import OpenDevice, open_device
from appliance.remote.target import Target, target_at, target_named

__all__ = ["KnownDevice", "KnownDevices", "OpenDevice", "Target", "open_device", "target_at", "target_named"]
