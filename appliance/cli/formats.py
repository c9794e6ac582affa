"""The devices found, as configuration of other programs; pure.

Names and model ids come from the network: they are written as JSON strings, which YAML reads too, or not at all.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from appliance.discovery import Device
from appliance.remote.probe import Probe

Formatter = Callable[[Sequence[Device], Mapping[str, Probe]], str]


def as_env(devices: Sequence[Device], _probes: Mapping[str, Probe]) -> str:
    """Format the first device as OpenAI's SDKs take it: `eval $(lantern discover --format env)`."""
    return f"export OPENAI_BASE_URL={shlex.quote(devices[0].base_url)}\n"


def as_litellm(devices: Sequence[Device], probes: Mapping[str, Probe]) -> str:
    """Format LiteLLM's `model_list`: one deployment for each model of each device; equal names share the load."""
    lines = ["model_list:"]
    for device in devices:
        for model in probes[device.base_url].models or ():
            deployment = {
                "model_name": model,
                "litellm_params": {
                    "model": f"openai/{model}",
                    "api_base": device.base_url,
                    "api_key": "os.environ/LANTERN_API_KEY",
                },
            }
            lines.append(f"  - {json.dumps(deployment)}")
    return "\n".join(lines) + "\n"


def as_prometheus(devices: Sequence[Device], _probes: Mapping[str, Probe]) -> str:
    """Format a file for Prometheus' file_sd_configs."""
    groups = []
    for device in devices:
        labels = {"device": device.name, "id": device.id or ""}
        if device.record.proto == "https":
            labels["__scheme__"] = "https"
        groups.append({"targets": [urlsplit(device.base_url).netloc], "labels": labels})
    return json.dumps(groups, indent=2, ensure_ascii=False) + "\n"


def as_caddy(devices: Sequence[Device], _probes: Mapping[str, Probe]) -> str:
    """Format a Caddyfile that balances over the devices; scheme, address and port are the only foreign parts."""
    upstreams = " ".join(f"{device.record.proto}://{urlsplit(device.base_url).netloc}" for device in devices)
    options = "\tlb_policy least_conn\n\thealth_uri /health\n\thealth_interval 5s\n\tflush_interval -1\n"
    return f":8000\nreverse_proxy {upstreams} {{\n{options}}}\n"


FORMATS: dict[str, Formatter] = {
    "env": as_env,
    "litellm": as_litellm,
    "prometheus": as_prometheus,
    "caddy": as_caddy,
}
