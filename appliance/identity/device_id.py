"""The device's own random id: made once, kept, and never derived from hardware or a person's name."""

from __future__ import annotations

import contextlib
import re
import secrets
from pathlib import Path

from appliance.errors import DiscoveryError
from appliance.home import Home
from appliance.host.files import write_atomically

_FILE_NAME = "device-id"
_NUM_BYTES = 16
_ANNOUNCED_CHARS = 16


def load_device_id(home: Home) -> str:
    """Load the 16 hex digits that tell this device from every other; the file keeps 32.

    Raises:
        DiscoveryError: the folder cannot be written, or the file holds something else.
    """
    path = home.root / _FILE_NAME
    try:
        kept = _read(path) or _make(path)
    except OSError as err:
        raise DiscoveryError(f"The device id cannot be kept in {path}: {err.strerror}; check the folder.") from err
    if not re.fullmatch(r"[0-9a-f]{32}", kept):
        raise DiscoveryError(f"{path} holds no device id; remove it, and a new one is made.")
    return kept[:_ANNOUNCED_CHARS]


def host_name(device_id: str) -> str:
    """Return a host name that is unique by construction: python-zeroconf 0.154 never probes for it."""
    return f"lantern-{device_id[:8]}.local"


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return None


def _make(path: Path) -> str:
    """Write a new id so that a reader sees a whole one, and the first of two writers wins."""
    with contextlib.suppress(FileExistsError):
        write_atomically(path, f"{secrets.token_hex(_NUM_BYTES)}\n".encode(), replace=False)
    return path.read_text(encoding="ascii", errors="replace").strip()
