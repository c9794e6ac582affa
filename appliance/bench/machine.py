"""The machine that the figures belong to."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from appliance.host.cores import usable_cores

_CPU_INFO = Path("/proc/cpuinfo")
_BOARD = Path("/proc/device-tree/model")  # a Raspberry Pi or Jetson tells its name here
_CPU_KEYS = ("model name", "Hardware", "cpu model")


@dataclass(frozen=True, slots=True)
class Machine:
    """The facts that a reader needs to compare figures with those of another machine."""

    cpu: str
    architecture: str
    num_cores: int
    memory_bytes: int
    system: str
    python: str
    onnxruntime: str


def describe_machine() -> Machine:
    """Look around; nothing here takes time."""
    return Machine(
        cpu=_cpu_name(),
        architecture=platform.machine(),
        num_cores=usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        onnxruntime=_version("onnxruntime"),
    )


def load_average() -> float:
    """Runnable processes over the last minute; figures of a busy machine say little."""
    return round(os.getloadavg()[0], 2)


def _cpu_name() -> str:
    try:
        board = _BOARD.read_text("utf-8").rstrip("\0\n")
    except OSError:
        board = ""
    try:
        cpu = cpu_name_in(_CPU_INFO.read_text("utf-8", errors="replace"))
    except OSError:
        cpu = ""
    return board or cpu or platform.processor() or "unknown"


def cpu_name_in(cpu_info: str) -> str:
    """Return the processor's name in the text of /proc/cpuinfo; empty if it has none, as on many Arm boards."""
    fields = dict(line.split(":", 1) for line in cpu_info.splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    return next((named[key] for key in _CPU_KEYS if named.get(key)), "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
