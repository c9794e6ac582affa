"""Kernels as they are built: programs that compare families, each built once a session."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.engine.kernels.building import make, need

_SANITIZERS = "-O1 -fsanitize=address,undefined -fno-sanitize-recover=all -g"
_ARM_COMPILER = "aarch64-linux-gnu-g++"


def _program(name: str, build: Path, *variables: str, compiler: str = "g++") -> Path:
    """Build one of the programs of kernels.mk in a folder."""
    need("make", compiler)
    make(f"{build}/{name}", build, f"KERNEL_CXX={compiler}", *variables)
    return build / name


@pytest.fixture(scope="session")
def native_floats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the program of the loops over floats as the library has them on this machine."""
    return _program("float_bits", tmp_path_factory.mktemp("native-floats"), "KERNEL_FLAGS=-Werror")


@pytest.fixture(scope="session")
def native_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the comparing program for this machine, with sanitizers."""
    flags = f"KERNEL_FLAGS={_SANITIZERS} -Werror"
    return _program("equality", tmp_path_factory.mktemp("native"), flags, "KERNEL_STATIC=")


@pytest.fixture(scope="session")
def arm_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the programs for 64-bit Arm share their objects."""
    return tmp_path_factory.mktemp("arm")


@pytest.fixture(scope="session")
def arm_floats(arm_build: Path) -> Path:
    """Build the program of the loops over floats for 64-bit Arm, to be run by the emulator."""
    return _program("float_bits", arm_build, "KERNEL_FLAGS=-Werror", compiler=_ARM_COMPILER)


@pytest.fixture(scope="session")
def arm_program(arm_build: Path) -> Path:
    """Build the comparing program for 64-bit Arm, to be run by the emulator."""
    return _program("equality", arm_build, "KERNEL_FLAGS=-Werror", compiler=_ARM_COMPILER)


@pytest.fixture(scope="session")
def emulator() -> str:
    """Find the emulator of 64-bit Arm, from either of Debian's packages."""
    for program in ("qemu-aarch64", "qemu-aarch64-static"):
        if shutil.which(program) is not None:
            return program
    pytest.skip("not installed: qemu-user or qemu-user-static")
