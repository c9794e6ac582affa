"""Small private files: written whole or not at all, and owned by whom their folder belongs to."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

FolderVersion = frozenset[tuple[str, int, int]]
"""Name, inode and modification time of each file."""


def write_atomically(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file of mode 0600 so that a reader, or a power cut, sees the old one or the new one.

    What root writes belongs to the owner of the nearest folder, who is the user that the service runs as.

    Raises:
        FileExistsError: it is there already, and is not to be replaced.
        OSError: the folder cannot be written.
    """
    owner = next(p for p in path.parents if p.exists()).stat()
    make_folder(path.parent)
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


def make_folder(folder: Path, *, mode: int = 0o700) -> None:
    """Make a folder and those above it where they are absent, durably; they belong to the owner of the nearest one.

    A synced file is lost with its folder if the folder's own name was not synced, too.

    Raises:
        OSError: it cannot be made, or is a file.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=mode, exist_ok=True)
        _give(path, path.parent.stat())
        sync_folder(path.parent)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, made if absent, until the block is left or the process ends; blocks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable, or the bytes of a file."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(folder: Path) -> None:
    """Make the files below a folder durable, and their names; not the folder's own name."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            sync_folder(path)
    sync_folder(folder)


def folder_version(folder: Path, suffix: str) -> FolderVersion:
    """Return a value that differs after every change of the folder's files with this suffix; cheap."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        return frozenset((e.name, e.inode(), e.stat().st_mtime_ns) for e in entries if e.name.endswith(suffix))
    return frozenset()


def chown_tree(folder: Path, like: Path) -> None:
    """Give the files that root made below a folder to the owner of `like`, the user that the service runs as."""
    if os.geteuid() == 0:
        owner = like.stat()
        for path in [folder, *folder.rglob("*")]:
            if path.lstat().st_uid != owner.st_uid:
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _give(path: Path, owner: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid)
