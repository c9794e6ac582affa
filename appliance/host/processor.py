"""The kind of this processor, by the features that decide which kernels multiply quantized weights."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal

# "neon": 64-bit Arm without dot products (Cortex-A53, A72); "dotprod": with them (A76, A78AE); "i8mm": with products of
# matrices of bytes as well.
ProcessorKind = Literal["x86", "neon", "dotprod", "i8mm", "other"]

_CPU_INFO = Path("/proc/cpuinfo")
_X86 = ("x86_64", "AMD64", "i686")
_ARM = ("aarch64", "arm64")


def processor_kind(machine: str | None = None, cpu_info: Path = _CPU_INFO) -> ProcessorKind:
    """Return the kind of this processor, or of another machine with this text of /proc/cpuinfo."""
    name = machine or platform.machine()
    if name in _X86:
        return "x86"
    if name not in _ARM:
        return "other"
    features = arm_features(cpu_info)
    if "i8mm" in features:
        return "i8mm"
    return "dotprod" if "asimddp" in features else "neon"


def arm_features(cpu_info: Path) -> frozenset[str]:
    """Return the features that all cores of an Arm processor have; none if the file cannot be read."""
    try:
        lines = cpu_info.read_text("utf-8", "replace").splitlines()
    except OSError:
        return frozenset()
    by_core = [frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("Features")]
    return frozenset.intersection(*by_core) if by_core else frozenset()
