"""The bundles of one machine: staged, verified, installed by rename, opened only after every byte was checked.

Layout below the root: `NAME/DIGEST/` holds one verified bundle, the link `NAME/active` says which one serves,
`.staging/` holds what is not finished and is swept at start. A kill at any moment leaves the old whole or the new.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME, FileEntry, Manifest
from appliance.bundle.signing import SigningKey, TrustedKeys
from appliance.errors import BundleError, StorageFullError

_CHUNK_BYTES = 1 << 20
_STAGING = ".staging"
_ACTIVE = "active"
_RESERVE_BYTES = 64 << 20  # what an install leaves free, so that logs and keys still fit


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose signature and files were verified."""

    folder: Path
    manifest: Manifest
    signer: str

    @property
    def name(self) -> str:
        """The model id that clients use."""
        return self.manifest.name

    def path(self, name: str) -> Path:
        """Where one of the manifest's files lies.

        Raises:
            BundleError: the manifest names no such file.
        """
        if not self.has(name):
            raise BundleError(f"the bundle {self.name} has no file {name}")
        return self.folder / name

    def has(self, name: str) -> bool:
        """Whether the manifest names this file."""
        return any(f.name == name for f in self.manifest.files)


def open_bundle(folder: Path, trusted: TrustedKeys) -> Bundle:
    """Verify the signature, then every file, as the device does before it parses anything else.

    Raises:
        BundleError: missing, not trusted, or not byte for byte what the manifest says.
    """
    if not folder.is_dir():
        raise BundleError(f"there is no bundle at {folder}")
    data = _read_small(folder, MANIFEST_NAME)
    signer = trusted.verify(data, _read_small(folder, SIGNATURE_NAME))
    manifest = Manifest.from_bytes(data)
    present = {entry.name for entry in os.scandir(folder)}
    unknown = present - {f.name for f in manifest.files} - {MANIFEST_NAME, SIGNATURE_NAME}
    if unknown:
        raise BundleError(f"{folder} holds {min(unknown)}, which the manifest does not name")
    for entry in manifest.files:
        _verify_file(folder, entry)
    return Bundle(folder, manifest, signer)


def write_bundle(folder: Path, manifest: Manifest, key: SigningKey) -> None:
    """Write the manifest and its signature beside files that are already there."""
    data = manifest.to_bytes()
    (folder / MANIFEST_NAME).write_bytes(data)
    (folder / SIGNATURE_NAME).write_bytes(key.sign(data))


def describe_files(folder: Path, names: Iterable[str]) -> tuple[FileEntry, ...]:
    """Sizes and hashes of these files, sorted by name."""
    entries = []
    for name in sorted(names):
        digest = hashlib.sha256()
        with (folder / name).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
            size = file.tell()
        entries.append(FileEntry(name=name, size_bytes=size, sha256=digest.hexdigest()))
    return tuple(entries)


class BundleStore:
    """The bundles installed below one root folder.

    One process writes at a time; readers need no lock, since every change is one rename.
    """

    def __init__(self, root: Path, trusted: TrustedKeys) -> None:
        self._root = root
        self._trusted = trusted

    @property
    def root(self) -> Path:
        """The folder that holds everything."""
        return self._root

    def names(self) -> list[str]:
        """The installed bundles that have an active version, sorted."""
        if not self._root.is_dir():
            return []
        return sorted(p.name for p in self._root.iterdir() if (p / _ACTIVE).is_symlink())

    def open(self, name: str) -> Bundle:
        """Verify and open the active version.

        Raises:
            BundleError: not installed, damaged, or not trusted.
        """
        if name not in self.names():
            raise BundleError(f"the model {name!r} is not installed in {self._root}")
        bundle = open_bundle((self._root / name / _ACTIVE).resolve(), self._trusted)
        if bundle.name != name:
            raise BundleError(f"the folder of {name!r} holds the bundle {bundle.name!r}; remove and install it again")
        return bundle

    def sweep(self) -> None:
        """Remove what an interrupted install left behind."""
        shutil.rmtree(self._root / _STAGING, ignore_errors=True)

    @contextlib.contextmanager
    def stage(self, size_bytes: int = 0) -> Iterator[Path]:
        """An empty folder on the store's own file system, removed when the block is left.

        Raises:
            StorageFullError: the free space is less than `size_bytes` and a reserve.
        """
        staging = self._root / _STAGING
        staging.mkdir(parents=True, exist_ok=True, mode=0o700)
        free = shutil.disk_usage(staging).free
        if free < size_bytes + _RESERVE_BYTES:
            raise StorageFullError(
                f"the bundle needs {size_bytes >> 20} MiB and {_RESERVE_BYTES >> 20} MiB to spare; "
                f"{free >> 20} MiB are free in {self._root}"
            )
        folder = Path(tempfile.mkdtemp(dir=staging))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def install(self, staged: Path) -> Bundle:
        """Verify a staged folder, make it durable, and activate it in one rename.

        Raises:
            BundleError: it does not verify; nothing has changed.
        """
        bundle = open_bundle(staged, self._trusted)
        home = self._root / bundle.name
        target = home / bundle.manifest.digest
        home.mkdir(parents=True, exist_ok=True)
        if target.exists():
            if self._is_whole(target):
                self._activate(home, target.name)
                return open_bundle(target, self._trusted)
            shutil.rmtree(target)
        for entry in os.scandir(staged):
            _fsync(Path(entry.path))
        _fsync(staged)
        staged.rename(target)
        _fsync(home)
        self._activate(home, target.name)
        return Bundle(target, bundle.manifest, bundle.signer)

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
        with self.stage() as grave:
            (self._root / name).rename(grave / name)
            _fsync(self._root)

    def prune(self, name: str, *, keep: int = 2) -> None:
        """Remove the oldest versions beyond `keep`, never the active one."""
        active = self.active(name)
        for digest in [d for d in self.versions(name) if d != active][: -(keep - 1) or None]:
            shutil.rmtree(self._root / name / digest)

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
        _fsync(home)


def _read_small(folder: Path, name: str, limit_bytes: int = 1 << 20) -> bytes:
    with _open_regular(folder, name) as fd:
        if os.fstat(fd).st_size > limit_bytes:
            raise BundleError(f"{name} in {folder} is larger than {limit_bytes} bytes")
        return os.read(fd, limit_bytes)


def _verify_file(folder: Path, entry: FileEntry) -> None:
    with _open_regular(folder, entry.name) as fd:
        size = os.fstat(fd).st_size
        if size != entry.size_bytes:
            raise BundleError(
                f"{entry.name} in {folder} has {size} bytes instead of {entry.size_bytes}; install the bundle again"
            )
        digest = hashlib.sha256()
        while chunk := os.read(fd, _CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != entry.sha256:
        raise BundleError(f"{entry.name} in {folder} is damaged (its SHA-256 differs); install the bundle again")


@contextlib.contextmanager
def _open_regular(folder: Path, name: str) -> Iterator[int]:
    """A descriptor of a regular file with one link; a link in any form could lead out of the bundle."""
    try:
        fd = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as err:
        raise BundleError(f"{name} cannot be read in {folder}: {err.strerror}") from err
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise BundleError(f"{name} in {folder} is not a regular file of its own")
        yield fd
    finally:
        os.close(fd)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
