"""Commands inside a tree of another processor; needs root, and leave to run that processor's programs."""

from __future__ import annotations

import os
from pathlib import Path

from images.workplace import run

_BINFMT = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
_ENTER = 'mount --bind /proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'


def check_emulation() -> None:
    """Check that arm64 programs run; raise SystemExit if not."""
    if os.geteuid() != 0:
        raise SystemExit("Building an image needs root.")
    if not emulates():
        raise SystemExit("This machine does not run arm64 programs; make image-deps lets it.")


def emulates() -> bool:
    """Tell if this machine runs arm64 programs."""
    return os.uname().machine == "aarch64" or _BINFMT.exists()


def run_in(tree: Path, *command: str) -> str:
    """Run a command with the tree as its root, and with /proc and /dev in it.

    These are mounted for the command alone: were they left behind, whoever removed the tree would empty /dev.
    """
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    return run(*entering(tree), *command, DEBIAN_FRONTEND="noninteractive", HOME="/root", PATH=path)


def entering(tree: Path) -> list[str]:
    """Return the words before a command that has to run in the tree."""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, str(tree)]
