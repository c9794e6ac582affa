"""Debian trees to try packages in, kept between runs in the build's cache; and a chroot with what programs expect."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from images.apt_sources import trixie_sources
from images.workplace import cache, run

_PACKAGES = "python3,systemd,libstdc++6"


def missing(*tools: str) -> str | None:
    """Why a test that needs root and these tools cannot run here, if so."""
    if os.geteuid() != 0:
        return "needs root"
    return next((f"{tool} is not installed: make image-deps" for tool in tools if shutil.which(tool) is None), None)


@dataclass(frozen=True, slots=True)
class Chroot:
    """A tree with /proc and /dev in it."""

    root: Path

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside and return what it printed."""
        result = subprocess.run(
            ["chroot", str(self.root), *command],
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": "/usr/sbin:/usr/bin",
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


@contextlib.contextmanager
def trixie(folder: Path, architecture: str = "amd64") -> Iterator[Chroot]:
    """A minimal trixie in `folder` until the block is left."""
    tarball = cache() / f"test-trixie-{architecture}.tar"
    if not tarball.exists():
        staged = tarball.with_name(f".{tarball.name}")
        options = ["--variant=minbase", f"--architectures={architecture}", f"--include={_PACKAGES}"]
        run("mmdebstrap", *options, '--aptopt=APT::Install-Recommends "false"', "trixie", staged, *trixie_sources())
        staged.rename(tarball)
    run("tar", "--extract", "--numeric-owner", "--file", tarball, "--directory", folder)
    with contextlib.ExitStack() as undo:
        for name in ("proc", "dev"):
            run("mount", "--bind", f"/{name}", folder / name)
            undo.callback(run, "umount", "--lazy", folder / name)
        yield Chroot(folder)
