"""Places of their own for packages that this project does not depend on: one virtual environment or npm folder each."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

PROGRAMS = Path(__file__).parent / "programs"

_INSTALL_TIMEOUT_S = 180.0
_OFFLINE = (
    "failed to fetch",
    "error sending request",
    "dns error",
    "enotfound",
    "econnrefused",
    "etimedout",
    "eai_again",
)


def cache_folder() -> Path:
    """Where environments are kept between sessions."""
    named = os.environ.get("LANTERN_TEST_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("lantern-tests"))


def python_with(*packages: str) -> Path:
    """A Python that has these packages, each pinned; installed once."""
    folder = _folder("venv", *packages, sys.version)
    python = folder / "bin" / "python"
    if not _is_complete(folder):
        uv = [sys.executable, "-m", "uv"]
        _install([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)], cwd=folder.parent)
        _install([*uv, "pip", "install", "--quiet", "--python", str(python), *packages], cwd=folder.parent)
        _complete(folder)
    return python


def node_folder() -> Path:
    """A folder in which node finds the packages of package.json; installed once."""
    if shutil.which("npm") is None:
        pytest.skip("node and npm are not there")
    manifest = PROGRAMS / "package.json"
    folder = _folder("npm", manifest.read_text("utf-8"))
    if not _is_complete(folder):
        folder.mkdir(parents=True)
        shutil.copy(manifest, folder)
        _install(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=folder)
        _complete(folder)
    return folder


def _folder(kind: str, *parts: str) -> Path:
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return cache_folder() / f"{kind}-{digest}"


def _is_complete(folder: Path) -> bool:
    """Whether it was installed to the end; what was not is removed."""
    if (folder / "complete").exists():
        return True
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return False


def _complete(folder: Path) -> None:
    (folder / "complete").touch()


def _install(command: list[str], *, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False)
    said = done.stdout + done.stderr
    if done.returncode and any(sign in said.lower() for sign in _OFFLINE):
        pytest.skip("the package registry cannot be reached")
    assert done.returncode == 0, said
