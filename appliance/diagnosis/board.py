"""The board itself: model, memory, heat and power, clock, network."""

from __future__ import annotations

import datetime
import platform
import socket
from pathlib import Path

import psutil

import appliance
from appliance.diagnosis.finding import Finding, bad, good, note
from appliance.host.cores import usable_cores
from appliance.host.thermal import Thermal

_MIB = 1 << 20
_MIN_FREE_MEMORY_MIB = 400
_HOT_C = 80.0
_FIRST_POSSIBLE = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)  # wheels have a fixed date, long ago
_A_DAY = datetime.timedelta(days=1)


def check_board(root: Path = Path("/")) -> Finding:
    """Check that the machine is a known board."""
    model = root / "proc/device-tree/model"
    name = model.read_text("utf-8", "replace").rstrip("\0\n") if model.exists() else platform.machine()
    return good("board", f"{name}, {usable_cores()} usable cores, {platform.system()} {platform.release()}")


def check_memory(available_bytes: int | None = None) -> Finding:
    """Check that a small model would still fit."""
    free = psutil.virtual_memory().available if available_bytes is None else available_bytes
    text = f"{free // _MIB} MiB available"
    if free < _MIN_FREE_MEMORY_MIB * _MIB:
        return bad("memory", text, "Stop other programs, or lower engine.slots and engine.context_length.")
    return good("memory", text)


def check_heat(thermal: Thermal) -> Finding:
    """Heat and power, the two that make a board slow without a word."""
    shown = "no sensor" if thermal.temperature_c is None else f"{thermal.temperature_c:.0f} °C"
    if thermal.is_under_voltage:
        return bad(
            "power", f"the supply voltage is too low ({shown})", "Use the power supply that the board's maker names."
        )
    if thermal.is_throttled or (thermal.temperature_c or 0) >= _HOT_C:
        return bad(
            "heat", f"the board is hot and slowed down ({shown})", "Give it a heat sink, a fan, or another place."
        )
    if thermal.was_under_voltage:
        told = f"the supply voltage was too low since the start, which slows the board down ({shown})"
        return note("power", told, "Use the power supply that the board's maker names, and a short cable.")
    if thermal.was_throttled:
        told = f"the board was slowed down since the start ({shown})"
        return note("heat", told, "Give it a heat sink, a fan, or another place.")
    return good("heat", f"{shown}, not throttled")


def check_clock(now: datetime.datetime | None = None, released: datetime.datetime | None = None) -> Finding:
    """Check that the clock was ever set; nothing here depends on it, logs do.

    `released` is the date of this version's files: packages and images have that of the release.
    """
    now = now or datetime.datetime.now(tz=datetime.UTC)
    released = released or datetime.datetime.fromtimestamp(Path(appliance.__file__).stat().st_mtime, tz=datetime.UTC)
    first = max(released, _FIRST_POSSIBLE)
    if now < first - _A_DAY:
        told = f"it is {now:%Y-%m-%d} here, which is before this version was made ({first:%Y-%m-%d})"
        return note("clock", told, "Let the device reach a time server, or set the clock: only logs suffer.")
    return good("clock", f"{now:%Y-%m-%d %H:%M} UTC")


def check_network() -> Finding:
    """Check that another machine could reach this one."""
    addresses = [
        address.address
        for name, entries in psutil.net_if_addrs().items()
        if psutil.net_if_stats()[name].isup
        for address in entries
        if address.family in {socket.AF_INET, socket.AF_INET6}
        and not address.address.startswith(("127.", "::1", "fe80"))
    ]
    if not addresses:
        return note("network", "there is no address but this machine's own", "Plug in a cable, or set up Wi-Fi.")
    return good("network", ", ".join(addresses[:4]))
