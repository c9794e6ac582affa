"""The public client module: find a device on the local network and open OpenAI's SDK on it.

    from appliance.client import openai_client

    client = openai_client()

The package `openai` is optional: `pip install 'lantern-appliance[client]'`.
"""

from __future__ import annotations

from appliance.discovery import Device, find
from appliance.errors import ConfigError, DiscoveryError, TrustError
from appliance.remote.openai_sdk import async_openai_client, openai_client

__all__ = [
    "ConfigError",
    "Device",
    "DiscoveryError",
    "TrustError",
    "async_openai_client",
    "find",
    "openai_client",
]
