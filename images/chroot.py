"""Commands inside a tree of another processor; needs root, and leave to run that processor's programs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from images.workplace import run

_BINFMT = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")


def check_emulation() -> None:
    """Raises SystemExit where arm64 programs do not run."""
    if os.geteuid() != 0:
        raise SystemExit("Building an image needs root.")
    if os.uname().machine != "aarch64" and not _BINFMT.exists():
        raise SystemExit("This machine does not run arm64 programs; make image-deps lets it.")


@contextlib.contextmanager
def mounted(tree: Path) -> Iterator[None]:
    """/proc and /dev in the tree until the block is left."""
    with contextlib.ExitStack() as undo:
        for name in ("proc", "dev"):
            run("mount", "--bind", f"/{name}", tree / name)
            undo.callback(run, "umount", "--lazy", tree / name)
        yield


def run_in(tree: Path, *command: str) -> str:
    """Run a command with the tree as its root."""
    return run("chroot", tree, *command, DEBIAN_FRONTEND="noninteractive", HOME="/root", PATH="/usr/sbin:/usr/bin")
