"""Builds of the kernels for tests, as `make` makes them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def make(target: str, build: Path, *variables: str) -> None:
    """Make a target of kernels.mk in the folder `build`."""
    command = ["make", "-s", "-j2", "-f", "kernels.mk", target, f"KERNEL_BUILD={build}", *variables]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr


def need(*programs: str) -> None:
    """Skip the test if a program is not installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def built(library: Path) -> Path:
    """Return a library that `make` was to build; skip the test where its header was not to be had, offline for one."""
    if not library.exists():
        pytest.skip("no onnxruntime_c_api.h to be had: set ORT_INCLUDE")
    return library
