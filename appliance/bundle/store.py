"""The bundles of one machine: staged, verified, installed by rename, opened only after every byte was checked.

Layout below the root: `NAME/DIGEST/` holds one verified bundle, the link `NAME/active` says which one serves,
`.staging/` holds what is not finished and is swept at start. A kill at any moment leaves the old whole or the new.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from appliance.bundle.aliases import Aliases
from appliance.bundle.folder import Bundle, describe_bundle, open_bundle
from appliance.bundle.signing import TrustedKeys
from appliance.errors import BundleError, ConflictError, StorageFullError
from appliance.files import sync_folder

RESERVE_BYTES = 64 << 20  # what an install leaves free, so that logs and keys still fit

_STAGING = ".staging"
_ACTIVE = "active"
_LOCK = ".lock"
_ALIASES = ".aliases.json"
_LOCK_POLL_S = 0.05


class BundleStore:
    """The bundles installed below one root folder.

    Whoever changes it holds `writing`; readers need no lock, since every change is one rename.
    """

    def __init__(self, root: Path, trusted: TrustedKeys) -> None:
        self._root = root
        self._trusted = trusted

    @property
    def root(self) -> Path:
        """The folder that holds everything."""
        return self._root

    @property
    def trusted(self) -> TrustedKeys:
        """The keys whose bundles it takes."""
        return self._trusted

    @property
    def aliases(self) -> Aliases:
        """Other names for its models."""
        return Aliases(self._root / _ALIASES)

    @contextlib.contextmanager
    def writing(self, *, wait_s: float = 10.0) -> Iterator[None]:
        """Be the only one, of all threads and processes, who changes the store; not to be nested.

        Raises:
            ConflictError: somebody else is at it for longer than we wait.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        deadline_s = time.monotonic() + wait_s
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as err:
                    if time.monotonic() >= deadline_s:
                        raise ConflictError("another install or removal is under way; try again after it") from err
                    time.sleep(_LOCK_POLL_S)
            yield
        finally:
            os.close(fd)

    def names(self) -> list[str]:
        """The installed bundles that have an active version, sorted."""
        if not self._root.is_dir():
            return []
        return sorted(p.name for p in self._root.iterdir() if (p / _ACTIVE).is_symlink())

    def describe(self, name: str, digest: str | None = None) -> Bundle:
        """A version, or else the active one, with its signature verified but not its files: to be told of, not run.

        Raises:
            BundleError: not installed, or not trusted.
        """
        return describe_bundle(self._folder(name, digest), self._trusted)

    def open(self, name: str) -> Bundle:
        """Verify and open the active version.

        Raises:
            BundleError: not installed, damaged, or not trusted.
        """
        bundle = open_bundle(self._folder(name), self._trusted)
        if bundle.name != name:
            raise BundleError(f"the folder of {name!r} holds the bundle {bundle.name!r}; remove and install it again")
        return bundle

    def sweep(self) -> None:
        """Remove what an interrupted install or removal left behind."""
        shutil.rmtree(self._root / _STAGING, ignore_errors=True)
        for home in self._root.iterdir() if self._root.is_dir() else ():
            if home.is_dir() and not home.name.startswith(".") and not (home / _ACTIVE).is_symlink():
                shutil.rmtree(home, ignore_errors=True)

    @contextlib.contextmanager
    def stage(self, size_bytes: int = 0) -> Iterator[Path]:
        """An empty folder on the store's own file system, removed when the block is left.

        Raises:
            StorageFullError: the free space is less than `size_bytes` and a reserve.
        """
        self.check_space(size_bytes)
        with self._grave() as folder:
            yield folder

    def check_space(self, size_bytes: int) -> None:
        """See beforehand that so many bytes fit.

        Raises:
            StorageFullError: the free space is less than `size_bytes` and a reserve.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._root).free
        if free < size_bytes + RESERVE_BYTES:
            raise StorageFullError(
                f"the bundle needs {size_bytes >> 20} MiB and {RESERVE_BYTES >> 20} MiB to spare; "
                f"{free >> 20} MiB are free in {self._root}"
            )

    def install(self, staged: Path, *, accept: Callable[[Bundle], None] = lambda _: None) -> Bundle:
        """Verify a folder on the store's file system, make it durable, and activate it in one rename.

        `accept` is asked about a bundle that is not here yet, after it was verified; what it raises ends the install.

        Raises:
            BundleError: it does not verify; nothing has changed.
        """
        bundle = open_bundle(staged, self._trusted)
        home = self._root / bundle.name
        target = home / bundle.digest
        if target.exists() and self._is_whole(target):
            os.utime(target)  # it is the latest install now, which a rollback goes by
            self._activate(home, target.name)
            return replace(bundle, folder=target)
        accept(bundle)
        if target.exists():
            self._bury(target)
        if not home.exists():
            home.mkdir(parents=True)
            sync_folder(self._root)
        for entry in os.scandir(staged):
            _sync_file(Path(entry.path))
        sync_folder(staged)
        staged.rename(target)
        sync_folder(home)
        self._activate(home, target.name)
        return replace(bundle, folder=target)

    def add(self, folder: Path) -> Bundle:
        """Copy a bundle folder into the store and install it."""
        size_bytes = sum(p.stat().st_size for p in folder.iterdir() if p.is_file())
        with self.stage(size_bytes) as staged:
            for path in folder.iterdir():
                shutil.copyfile(path, staged / path.name, follow_symlinks=False)
            return self.install(staged)

    def versions(self, name: str) -> list[str]:
        """The digests of the installed versions, oldest install first."""
        home = self._root / name
        folders = [p for p in home.iterdir() if p.is_dir() and not p.is_symlink()] if home.is_dir() else []
        return [p.name for p in sorted(folders, key=lambda p: p.stat().st_ctime_ns)]

    def active(self, name: str) -> str | None:
        """The digest that serves, if any."""
        link = self._root / name / _ACTIVE
        return link.readlink().name if link.is_symlink() else None

    def rollback(self, name: str) -> Bundle:
        """Activate the version installed before the active one.

        Raises:
            BundleError: there is none, or it does not verify.
        """
        versions, active = self.versions(name), self.active(name)
        older = versions[: versions.index(active)] if active in versions else versions
        if not older:
            raise BundleError(f"there is no older version of {name!r} to go back to")
        bundle = open_bundle(self._root / name / older[-1], self._trusted)
        self._activate(self._root / name, older[-1])
        return bundle

    def remove(self, name: str) -> None:
        """Uninstall every version.

        Raises:
            BundleError: it is not installed.
        """
        if name not in self.names():
            raise BundleError(f"the model {name!r} is not installed in {self._root}")
        self._bury(self._root / name)

    def prune(self, name: str, *, keep: int = 2) -> None:
        """Remove the oldest versions beyond `keep`, never the active one."""
        active = self.active(name)
        for digest in [d for d in self.versions(name) if d != active][: -(keep - 1) or None]:
            self._bury(self._root / name / digest)

    def _folder(self, name: str, digest: str | None = None) -> Path:
        if name not in self.names():
            raise BundleError(f"the model {name!r} is not installed in {self._root}")
        return (self._root / name / (digest or _ACTIVE)).resolve()

    @contextlib.contextmanager
    def _grave(self) -> Iterator[Path]:
        staging = self._root / _STAGING
        staging.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = Path(tempfile.mkdtemp(dir=staging))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _bury(self, folder: Path) -> None:
        """Take a folder away in one rename: half of one is never seen. Needs no free space."""
        with self._grave() as grave:
            folder.rename(grave / folder.name)
            sync_folder(folder.parent)

    def _is_whole(self, folder: Path) -> bool:
        try:
            open_bundle(folder, self._trusted)
        except BundleError:
            return False
        return True

    def _activate(self, home: Path, digest: str) -> None:
        fresh = home / f".{_ACTIVE}.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(digest)
        fresh.replace(home / _ACTIVE)
        sync_folder(home)


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
