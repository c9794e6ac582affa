"""Debian trees to try packages in, kept between runs in the build's cache; and a chroot with what programs expect."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from appliance.host.files import locked
from images.apt_sources import trixie_sources
from images.chroot import entering
from images.raspberry_pi.base import packages
from images.workplace import cache, run

MINIMAL = ["python3", "systemd", "libstdc++6"]  # what the package needs
# Of an image's packages, those that only its boards can use.
_OF_THE_BOARD = {"firmware-brcm80211", "linux-image-arm64", "raspi-firmware"}


def missing(*tools: str) -> str | None:
    """Return the reason why a test that needs root and these tools cannot run here; None if it can."""
    if os.geteuid() != 0:
        return "needs root"
    if not _may_mount():
        return "nothing can be mounted here"
    return next((f"{tool} is not installed: make image-deps" for tool in tools if shutil.which(tool) is None), None)


@functools.cache
def _may_mount() -> bool:
    command = ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@dataclass(frozen=True, slots=True)
class Chroot:
    """A tree with a system in it."""

    root: Path

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside and return what it printed."""
        result = subprocess.run(
            [*entering(self.root), *command],
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": "/root",
                "DEBIAN_FRONTEND": "noninteractive",
                "LC_ALL": "C.UTF-8",
            },
        )
        assert not check or result.returncode == 0, result.stdout + result.stderr
        return (result.stdout + result.stderr).strip()

    def files(self) -> set[str]:
        """Every path, less what dpkg and systemd write for themselves."""
        theirs = {self.root / p for p in ("dev", "proc", "tmp", "var/lib/dpkg", "var/log", "var/cache")}
        found: set[str] = set()
        for folder, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if Path(folder, name) not in theirs]
            found.update(str(Path(folder, name).relative_to(self.root)) for name in (*folders, *files))
        return found


def trixie(folder: Path, architecture: str = "amd64") -> Chroot:
    """A minimal trixie in `folder`."""
    return _unpacked(_tarball(MINIMAL, architecture), folder)


def image_debian(folder: Path) -> Chroot:
    """The Debian of an image for this machine's processor, without kernels, in `folder`."""
    chosen = [name for name in packages() if name not in _OF_THE_BOARD]
    return _unpacked(_tarball(chosen, "amd64"), folder)


def _tarball(chosen: list[str], architecture: str) -> Path:
    digest = hashlib.sha256("\n".join(chosen).encode()).hexdigest()[:8]
    tarball = cache() / f"test-trixie-{architecture}-{digest}.tar"
    with locked(tarball.with_name(f"{tarball.name}.lock")):  # another process of the tests may make it as well
        if not tarball.exists():
            staged = tarball.with_name(f".{tarball.name}")
            options = ["--variant=minbase", f"--architectures={architecture}", f"--include={','.join(chosen)}"]
            run("mmdebstrap", *options, '--aptopt=APT::Install-Recommends "false"', "trixie", staged, *trixie_sources())
            staged.rename(tarball)
    return tarball


def _unpacked(tarball: Path, folder: Path) -> Chroot:
    run("tar", "--extract", "--numeric-owner", "--file", tarball, "--directory", folder)
    return Chroot(folder)
