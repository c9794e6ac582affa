"""Kernels as they are built: programs that compare families, each built once a session."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.engine.kernels.building import make, need

_SANITIZERS = "-O1 -fsanitize=address,undefined -fno-sanitize-recover=all -g"


@pytest.fixture(scope="session")
def native_floats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the program of the loops over floats as the library has them on this machine."""
    need("make", "g++")
    build = tmp_path_factory.mktemp("native-floats")
    make(f"{build}/float_bits", build, "KERNEL_FLAGS=-Werror")
    return build / "float_bits"


@pytest.fixture(scope="session")
def arm_floats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the same program for 64-bit Arm."""
    need("make", "aarch64-linux-gnu-g++")
    build = tmp_path_factory.mktemp("arm-floats")
    make(f"{build}/float_bits", build, "KERNEL_FLAGS=-Werror", "KERNEL_CXX=aarch64-linux-gnu-g++")
    return build / "float_bits"


@pytest.fixture(scope="session")
def native_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the comparing program for this machine, with sanitizers."""
    need("make", "g++")
    build = tmp_path_factory.mktemp("native")
    make(f"{build}/equality", build, f"KERNEL_FLAGS={_SANITIZERS} -Werror", "KERNEL_STATIC=")
    return build / "equality"


@pytest.fixture(scope="session")
def arm_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the comparing program for 64-bit Arm, to be run by the emulator."""
    need("make", "aarch64-linux-gnu-g++")
    build = tmp_path_factory.mktemp("arm")
    make(f"{build}/equality", build, "KERNEL_FLAGS=-Werror", "KERNEL_CXX=aarch64-linux-gnu-g++")
    return build / "equality"


@pytest.fixture(scope="session")
def emulator() -> str:
    """Find the emulator of 64-bit Arm, from either of Debian's packages."""
    for program in ("qemu-aarch64", "qemu-aarch64-static"):
        if shutil.which(program) is not None:
            return program
    pytest.skip("not installed: qemu-user or qemu-user-static")
