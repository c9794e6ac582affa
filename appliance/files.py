"""Small private files: written whole or not at all, and owned by whom their folder belongs to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file of mode 0600 so that a reader, or a power cut, sees the old one or the new one.

    What root writes belongs to the owner of the nearest folder, who is the user that the service runs as.

    Raises:
        FileExistsError: it is there already, and is not to be replaced.
        OSError: the folder cannot be written.
    """
    owner = next(p for p in path.parents if p.exists()).stat()
    for folder in reversed([f for f in path.parents if not f.exists()]):
        folder.mkdir(mode=0o700, exist_ok=True)
        _give(folder, owner)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _give(temporary, owner)
        if replace:
            temporary.replace(path)
        else:
            path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def give_tree(folder: Path, like: Path) -> None:
    """What root made below a folder goes to the owner of `like`, who is the user that the service runs as."""
    if os.geteuid() == 0:
        owner = like.stat()
        for path in [folder, *folder.rglob("*")]:
            if path.lstat().st_uid != owner.st_uid:
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _give(path: Path, owner: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid)
