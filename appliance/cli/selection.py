"""Which device a command talks to when no URL is given: found on the network, chosen, and explained."""

from __future__ import annotations

import argparse

from appliance.discovery import Choice, browse, choose
from appliance.remote.probe import probe_all

_SETTLE_S = 0.6


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """Declare `--timeout`."""
    what = "how long to search (default %(default)g)"
    parser.add_argument("--timeout", type=_seconds, default=3.0, metavar="SECONDS", help=what)


async def find_device(*, name: str | None = None, model: str | None = None, timeout_s: float = 3.0) -> Choice:
    """Search, and choose one device.

    Raises:
        DiscoveryError: nothing was found, nothing fits, or several devices answer to `name`.
    """
    devices = await browse(
        timeout_s=timeout_s,
        settle_s=_SETTLE_S,
        enough=lambda found: any(name is None or device.answers_to(name) for device in found),
    )
    models = None
    if model is not None:
        models = {url: probe.models or () for url, probe in (await probe_all(devices)).items()}
    return choose(devices, name=name, model=model, models=models)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3600 seconds")
    return value
