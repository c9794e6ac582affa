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

from appliance.host.files import locked

PROGRAMS = Path(__file__).parent / "programs"

_INSTALL_TIMEOUT_S = 180.0
_LOCK_TIMEOUT_S = 1200.0
_OFFLINE = (
    "failed to fetch",
    "error sending request",
    "dns error",
    "enotfound",
    "econnrefused",
    "etimedout",
    "eai_again",
    "failed to establish a new connection",
)


def cache_folder() -> Path:
    """Return the folder that keeps environments between sessions."""
    named = os.environ.get("LANTERN_TEST_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("lantern-tests"))


def python_with(*packages: str) -> Path:
    """A Python that has these packages, each pinned; installed once."""
    folder = _folder("venv", *packages, sys.version)
    python = folder / "bin" / "python"
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not _is_complete(folder):
            uv = [sys.executable, "-m", "uv"]
            _install([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)], cwd=folder.parent)
            _install([*uv, "pip", "install", "--quiet", "--python", str(python), *packages], cwd=folder.parent)
            _complete(folder)
    return python


def python_locked(lock: Path) -> Path:
    """A Python that has the packages of a file, and none beside them; installed once, which takes minutes."""
    folder = _folder("venv", lock.read_text("utf-8"), sys.version)
    python = folder / "bin" / "python"
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not _is_complete(folder):
            uv = [sys.executable, "-m", "uv"]
            _install([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)], cwd=folder.parent)
            install = [
                *uv,
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--python",
                str(python),
                "--requirement",
                str(lock),
            ]
            _install(install, cwd=folder.parent, timeout_s=_LOCK_TIMEOUT_S)
            _complete(folder)
    return python


def python_of_debian(name: str, packages: tuple[str, ...], requirement: str) -> Path:
    """A root of Debian's unstable, in which /python has a newer Python and what it was asked for; needs root."""
    folder = _folder("debian", name, *packages, requirement)
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not _is_complete(folder):
            # A mirror may be older than its Release file says that it should be used.
            debian = ["mmdebstrap", "--quiet", "--variant=apt", '--aptopt=Acquire::Check-Valid-Until "false"']
            _install([*debian, f"--include={','.join(packages)}", "sid", str(folder)], cwd=folder.parent)
            _look_outside(folder)
            inside = ["chroot", str(folder)]
            _install([*inside, name, "-m", "venv", "/python"], cwd=folder.parent)
            _install([*inside, "/python/bin/pip", "install", "--quiet", "uv"], cwd=folder.parent)
            install = ["/python/bin/uv", "pip", "install", "--quiet", "--python", "/python/bin/python", requirement]
            _install([*inside, *install], cwd=folder.parent, timeout_s=_LOCK_TIMEOUT_S)
            _complete(folder)
    return folder


def _look_outside(root: Path) -> None:
    """Let a root find names, and trust whom this machine trusts."""
    for name in ("etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt"):
        if (source := Path("/", name)).is_file():
            shutil.copyfile(source, root / name)


def wheel_of(package: str, version: str, *, python: str) -> Path:
    """Return the wheel of a package for a Python that may not be here, neither unpacked nor installed."""
    folder = _folder("wheel", package, version, python)
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not _is_complete(folder):
            folder.mkdir(parents=True)
            download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            _install([*download, "--python-version", python, "--dest", ".", f"{package}=={version}"], cwd=folder)
            _complete(folder)
    return next(folder.glob("*.whl"))


def node_folder() -> Path:
    """A folder in which node finds the packages of package.json; installed once."""
    _need_npm()
    manifest = PROGRAMS / "package.json"
    folder = _folder("npm", manifest.read_text("utf-8"))
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not _is_complete(folder):
            folder.mkdir(parents=True)
            shutil.copy(manifest, folder)
            _install(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=folder)
            _complete(folder)
    return folder


def npm_packages(*packages: str) -> Path:
    """Return a `node_modules` with these packages, each pinned; installed once, and none of their code is run."""
    _need_npm()
    folder = _folder("npm", *packages)
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not _is_complete(folder):
            folder.mkdir(parents=True)
            options = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=dev", "--no-save"]
            _install(["npm", "install", *options, *packages], cwd=folder)
            _complete(folder)
    return folder / "node_modules"


def _need_npm() -> None:
    """Skip where node is not: its clients are not dependencies of ours."""
    if shutil.which("npm") is None:
        pytest.skip("node and npm are not there")


def _folder(kind: str, *parts: str) -> Path:
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return cache_folder() / f"{kind}-{digest}"


def _is_complete(folder: Path) -> bool:
    """Return True if the folder was installed to the end; remove one that was not."""
    if (folder / "complete").exists():
        return True
    shutil.rmtree(folder, ignore_errors=True)
    return False


def _complete(folder: Path) -> None:
    (folder / "complete").touch()


def _install(command: list[str], *, cwd: Path, timeout_s: float = _INSTALL_TIMEOUT_S) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False)
    said = done.stdout + done.stderr
    if done.returncode and any(sign in said.lower() for sign in _OFFLINE):
        pytest.skip("the package registry cannot be reached")
    assert done.returncode == 0, said
