"""The memory that this process could still take."""

from __future__ import annotations

from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(cgroup: Path = _CGROUP) -> int:
    """Return the board's available memory, or the service's own limit if that is nearer (cgroup v2: memory.max)."""
    left = int(psutil.virtual_memory().available)
    for limit in ("memory.max", "memory.high"):
        allowed = _number(_own(cgroup) / limit)
        used = _number(_own(cgroup) / "memory.current")
        if allowed is not None and used is not None:
            left = min(left, max(0, allowed - used))
    return left


def _own(cgroup: Path) -> Path:
    """Return the folder of this process's cgroup, as far as it can be seen."""
    try:
        lines = Path("/proc/self/cgroup").read_text("ascii").splitlines()
    except OSError:
        return cgroup
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::")), "")
    folder = cgroup / path
    return folder if folder.is_dir() else cgroup


def _number(path: Path) -> int | None:
    try:
        text = path.read_text("ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
