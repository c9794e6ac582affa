"""Asks a device whether it answers and what it serves; every failure is an answer too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from appliance.discovery.device import Device
from appliance.discovery.record import printable
from appliance.remote.patience import ATTEMPT_DELAY_S
from appliance.remote.pinned_tls import PinnedContext

_MAX_BODY_BYTES = 256 * 1024
_MAX_MODELS = 100
_MAX_COUNT = 1_000_000
_NO_ANSWER = "no answer"
_SLOW = "slow"
_CONNECT_S = 0.5  # the kernel takes it at once, whatever the device is busy with


@dataclass(frozen=True, slots=True)
class Probe:
    """A device's answer to a probe; `models` and the load (its number of requests) are None if it did not tell."""

    state: str
    models: tuple[str, ...] | None = None
    num_running: int | None = None
    num_waiting: int | None = None

    @property
    def answers(self) -> bool:
        """True if the device answered."""
        return self.state != _NO_ANSWER


async def probe_all(devices: Sequence[Device], *, timeout_s: float = 1.5) -> dict[str, Probe]:
    """Ask every device at once, by base URL, without a key.

    Certificates are not checked here: nothing secret is sent, and the answer is shown as a hint.
    """
    probes = await asyncio.gather(*(probe(device.base_url, timeout_s=timeout_s) for device in devices))
    return {device.base_url: answer for device, answer in zip(devices, probes, strict=True)}


async def probe(base_url: str, *, pin: str | None = None, key: str | None = None, timeout_s: float = 1.5) -> Probe:
    """Ask one device; with a key only over plain HTTP that the user asked for, or where the pin is checked.

    One that takes a connection and does not answer in time is busy and not absent: its state is `slow`.
    """
    assert key is None or pin is not None or base_url.startswith("http:")
    tls = False if pin is None else PinnedContext(pin)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    root = "/".join(base_url.split("/", 3)[:3])
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=timeout_s), connector=aiohttp.TCPConnector(ssl=tls), headers=headers
    ) as session:
        (_, health), (status, models) = await asyncio.gather(
            _get(session, f"{root}/health"), _get(session, f"{base_url}/models")
        )
    if status is None:
        is_there = await _takes_a_connection(root)
        return Probe(_SLOW if is_there else _NO_ANSWER)
    state = health.get("status")
    shown = printable(state, max_chars=16) if isinstance(state, str) else "ready"
    return Probe(shown, _ids(models), _sum(health, "num_running"), _sum(health, "num_waiting"))


async def _get(session: aiohttp.ClientSession, url: str) -> tuple[int | None, dict[str, object]]:
    """Return status and JSON object of a foreign answer; None without an answer, an empty object for other content."""
    try:
        async with session.get(url, allow_redirects=False) as response:
            body = await response.content.read(_MAX_BODY_BYTES)
            while len(body) < _MAX_BODY_BYTES and (more := await response.content.read(_MAX_BODY_BYTES)):
                body += more
            parsed = json.loads(body)
            return response.status, parsed if isinstance(parsed, dict) else {}
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None, {}
    except (ValueError, RecursionError):
        return response.status, {}


async def _takes_a_connection(root: str) -> bool:
    parts = urlsplit(root)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_connection(parts.hostname, port, happy_eyeballs_delay=ATTEMPT_DELAY_S)
    except (OSError, ValueError, TimeoutError):
        return False
    writer.transport.abort()
    return True


def _ids(models: dict[str, object]) -> tuple[str, ...] | None:
    data = models.get("data")
    if not isinstance(data, list):
        return None
    ids = [item["id"] for item in data if isinstance(item, dict) and isinstance(item.get("id"), str)]
    return tuple(printable(id_) for id_ in ids[:_MAX_MODELS])


def _sum(health: dict[str, object], count: str) -> int | None:
    """Sum a figure over all engines."""
    engines = health.get("engines")
    if not isinstance(engines, dict):
        return None
    counts = [engine.get(count) for engine in engines.values() if isinstance(engine, dict)]
    return sum(value for value in counts if isinstance(value, int) and 0 <= value <= _MAX_COUNT)
