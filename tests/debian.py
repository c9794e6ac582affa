"""Debian's packages, unpacked into the test cache and not installed: most of them would start a service."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.host.files import locked
from tests.clients.environments import cache_folder


def unpacked(package: str) -> Path:
    """The root of a package's files; fetched once, and only where LANTERN_CLIENT_TESTS asks for such things."""
    folder = cache_folder() / f"debian-{package}"
    with locked(folder.with_name(f"{folder.name}.lock")):
        return _fetched(package, folder)


def _fetched(package: str, folder: Path) -> Path:
    if (folder / "complete").exists():
        return folder
    if not os.environ.get("LANTERN_CLIENT_TESTS") or shutil.which("apt-get") is None:
        pytest.skip(f"{package} is not installed; with LANTERN_CLIENT_TESTS=1 Debian's package would be fetched")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fetch = f"apt-get download {package} && dpkg -x {package}_*.deb . && touch complete"
    if subprocess.run(["sh", "-c", fetch], cwd=folder, capture_output=True, check=False).returncode:
        pytest.skip(f"Debian's package {package} cannot be had here")
    return folder


def program(package: str, path: str) -> Path:
    """One of a package's programs: the installed one, else from the package."""
    installed = shutil.which(Path(path).name)
    return Path(installed) if installed else unpacked(package) / path
