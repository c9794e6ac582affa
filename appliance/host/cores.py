"""The number of cores that this process may use."""

from __future__ import annotations

import os

import psutil


def usable_cores() -> int:
    """Physical cores within the process's affinity; at least one."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:
        allowed = os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
