"""The board itself: model, memory, heat and power, storage, clock, network."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import socket
from pathlib import Path

import psutil

from appliance.diagnosis.finding import Finding, bad, good, note
from appliance.host.cores import usable_cores
from appliance.host.thermal import Thermal

_MIB = 1 << 20
_MIN_FREE_MEMORY_MIB = 400
_MIN_FREE_DISK_MIB = 500
_HOT_C = 80.0
_EARLIEST_YEAR = 2026  # when this was written: an earlier clock is not set
_WORN_TENTHS = 8  # eMMC life time estimates are tenths of its life


def check_board(root: Path = Path("/")) -> Finding:
    """What the machine says it is."""
    model = root / "proc/device-tree/model"
    name = model.read_text("utf-8", "replace").rstrip("\0\n") if model.exists() else platform.machine()
    return good("board", f"{name}, {usable_cores()} usable cores, {platform.system()} {platform.release()}")


def check_memory(available_bytes: int | None = None) -> Finding:
    """Whether a small model would still fit."""
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
    return good("heat", f"{shown}, not throttled")


def check_storage(folder: Path, sys: Path = Path("/sys")) -> Finding:
    """Space, whether it can be written, and how worn a built-in flash says it is."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free_mib = shutil.disk_usage(existing).free // _MIB
    text = f"{free_mib} MiB free in {existing}"
    if not os.access(existing, os.W_OK):
        return bad(
            "storage",
            f"{existing} cannot be written",
            "Check the owner of the folder, and whether the disk is read-only.",
        )
    if free_mib < _MIN_FREE_DISK_MIB:
        return bad("storage", text, "Remove models that nobody uses, or take a larger card.")
    for path in sys.glob("block/mmcblk*/device/life_time"):
        tenths = [int(word, 16) for word in path.read_text("ascii").split()]
        if max(tenths, default=0) >= _WORN_TENTHS:
            worn = f"{path.parts[-3]} has used {max(tenths)}0 % of its life"
            return note("storage", worn, "Copy what matters, and plan to replace it.")
    return good("storage", text)


def check_clock(now: datetime.datetime | None = None) -> Finding:
    """Whether the clock was ever set; nothing here depends on it, logs do."""
    now = now or datetime.datetime.now(tz=datetime.UTC)
    if now.year < _EARLIEST_YEAR:
        return note(
            "clock",
            f"it is {now:%Y-%m-%d} here",
            "Let the device reach a time server, or set the clock: only logs suffer.",
        )
    return good("clock", f"{now:%Y-%m-%d %H:%M} UTC")


def check_network() -> Finding:
    """Whether anybody could reach this machine."""
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
