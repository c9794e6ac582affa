"""The disk under LANTERN_HOME: space, wear, the bytes written a day, and the file of stored responses."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from appliance.config import Config
from appliance.diagnosis.finding import Finding, bad, good, note
from appliance.home import Home

_MIB = 1 << 20
_MIN_FREE_MIB = 500
_WORN_TENTHS = 8  # eMMC life time estimates are tenths of its life
_SECTOR_BYTES = 512  # Linux counts in these, whatever the disk's own are
_LONG_ENOUGH_S = 3600.0  # a shorter time tells nothing about a day
_DAY_S = 86400.0
_MOST_GB_A_DAY = 5.0  # a card of 16 GB that survives 500 writes of each cell then lasts four years
_DATABASE = b"SQLite format 3\0"
_SMALLER = 'Set responses.store = "memory", or put LANTERN_HOME on an SSD.'


def check_storage(folder: Path, sys: Path = Path("/sys")) -> Finding:
    """Check the space, that the disk can be written, and the wear that built-in flash reports."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free_mib = shutil.disk_usage(existing).free // _MIB
    text = f"{free_mib} MiB free in {existing}"
    if not os.access(existing, os.W_OK):
        told = f"{existing} cannot be written"
        return bad("storage", told, "Check the owner of the folder, and whether the disk is read-only.")
    if free_mib < _MIN_FREE_MIB:
        return bad("storage", text, "Remove models that nobody uses, or take a larger card.")
    for path in sys.glob("block/mmcblk*/device/life_time"):
        tenths = [int(word, 16) for word in path.read_text("ascii").split()]
        if max(tenths, default=0) >= _WORN_TENTHS:
            worn = f"{path.parts[-3]} has used {max(tenths)}0 % of its life"
            return note("storage", worn, "Copy what matters, and plan to replace it.")
    return good("storage", text)


def check_wear(
    home: Home, config: Config, root: Path = Path("/"), *, device: str | None = None, run_s: float | None = None
) -> Finding | None:
    """Check the bytes that a memory card takes each day, and the settings that write to it; None on another disk.

    `device` is the disk's number as MAJOR:MINOR, and `run_s` the seconds since the start of the board.
    """
    card = _card(root / "sys", device or _device_of(home.root))
    if card is None:
        return None
    seconds = _run_s(root / "proc") if run_s is None else run_s
    a_day_gb = _written_bytes(card) / max(seconds, 1.0) * _DAY_S / 1e9
    if seconds >= _LONG_ENOUGH_S and a_day_gb > _MOST_GB_A_DAY:
        told = f"{card.name}, a memory card, takes {a_day_gb:.1f} GB a day since the start, which wears it out"
        return note("wear", told, f"Find the program that writes. {_SMALLER}")
    if config.responses.store == "disk":
        return note("wear", f"responses are stored on {card.name}, a memory card, which each answer wears", _SMALLER)
    return good("wear", f"{card.name}, a memory card, takes {1000 * a_day_gb:.0f} MB a day since the start")


def check_responses(home: Home, config: Config) -> Finding | None:
    """Check that stored responses can be written and read; None if they are kept in memory. Opens nothing."""
    if config.responses.store != "disk":
        return None
    folder = home.responses
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        told = f"responses cannot be stored: {existing} cannot be written"
        return bad("responses", told, "Check the owner of the folder, and whether the disk is read-only.")
    files = sorted(folder.glob("responses-*.db"))
    for path in files:
        try:
            with path.open("rb") as file:
                head = file.read(len(_DATABASE))
        except OSError as err:
            told = f"responses cannot be read: {path}: {err.strerror}"
            return bad("responses", told, "Check the owner of the file, and the disk.")
        if head not in (b"", _DATABASE):
            told = f"{path} is damaged; the next start begins with an empty one"
            return bad("responses", told, "Copy the file first if its texts matter, and check the disk.")
    num_mib = sum(path.stat().st_size for path in files) / _MIB
    return good("responses", f"{num_mib:.1f} MiB stored in {folder}")


def _device_of(folder: Path) -> str:
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    number = existing.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def _card(sys: Path, device: str) -> Path | None:
    """Return the folder in /sys of the memory card that holds a partition; None for every other disk."""
    try:
        partition = (sys / "dev/block" / device).resolve(strict=True)
    except OSError:
        return None
    disk = partition.parent if (partition / "partition").exists() else partition
    return disk if disk.name.startswith("mmcblk") else None


def _written_bytes(disk: Path) -> int:
    """Return the bytes written since the start of the board (Documentation/block/stat.rst of the kernel: field 7)."""
    try:
        return int((disk / "stat").read_text("ascii").split()[6]) * _SECTOR_BYTES
    except (OSError, ValueError, IndexError):
        return 0


def _run_s(proc: Path) -> float:
    try:
        return float((proc / "uptime").read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
