"""The bundles of one machine: staged, verified, activated by a rename, opened only after every byte was verified.

Layout below the root: `NAME/DIGEST/` holds one verified bundle, the link `NAME/active` points to the one that serves,
`.staging/` holds unfinished folders and is swept at start. A kill at any moment leaves the old state or the new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from appliance.bundle.aliases import Aliases
from appliance.bundle.folder import Bundle, describe_bundle, open_bundle, read_verified
from appliance.bundle.signed_manifest import SignedManifest
from appliance.bundle.trusted_keys import TrustedKeys
from appliance.errors import BundleError, ConflictError, StorageFullError
from appliance.host.files import make_folder, sync_folder

RESERVE_BYTES = 64 << 20  # what an install leaves free, so that logs and keys still fit

_STAGING = ".staging"
_ACTIVE = "active"
_LOCK = ".lock"
_ALIASES = ".aliases.json"
_LOCK_POLL_S = 0.05


class BundleStore:
    """The bundles installed below one root folder.

    Changes are made while `writing` is held; readers need no lock, since every change is one rename.
    """

    def __init__(self, root: Path, trusted: TrustedKeys) -> None:
        self._root = root
        self._trusted = trusted

    @property
    def root(self) -> Path:
        """The folder of the store."""
        return self._root

    @property
    def trusted(self) -> TrustedKeys:
        """The keys whose bundles it accepts."""
        return self._trusted

    @property
    def aliases(self) -> Aliases:
        """The aliases of its models."""
        return Aliases(self._root / _ALIASES)

    @contextlib.contextmanager
    def writing(self, *, wait_s: float = 10.0) -> Iterator[None]:
        """Hold the store's lock, which excludes all other threads and processes; never nested.

        Raises:
            ConflictError: another holder kept it for longer than `wait_s`.
        """
        make_folder(self._root, mode=0o755)
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
        """Return the installed bundles that have an active version, sorted."""
        if not self._root.is_dir():
            return []
        return sorted(p.name for p in self._root.iterdir() if (p / _ACTIVE).is_symlink())

    def describe(self, name: str) -> SignedManifest:
        """Return the active version, its signature verified but not its files.

        Raises:
            BundleError: not installed, or not trusted.
        """
        return describe_bundle(self._active_folder(name), self._trusted)

    def read(self, signed: SignedManifest, name: str) -> bytes:
        """Read and verify one file of an installed version.

        Raises:
            BundleError: missing or damaged.
        """
        return read_verified(self._root / signed.name / signed.digest, signed.entry(name))

    def open(self, name: str) -> Bundle:
        """Verify and open the active version.

        Raises:
            BundleError: not installed, damaged, or not trusted.
        """
        bundle = open_bundle(self._active_folder(name), self._trusted)
        if bundle.name != name:
            raise BundleError(f"the folder of {name!r} holds the bundle {bundle.name!r}; remove and install it again")
        return bundle

    def sweep(self) -> None:
        """Remove the remains of an interrupted install or removal."""
        shutil.rmtree(self._root / _STAGING, ignore_errors=True)
        for home in self._root.iterdir() if self._root.is_dir() else ():
            if home.is_dir() and not home.name.startswith(".") and not (home / _ACTIVE).is_symlink():
                shutil.rmtree(home, ignore_errors=True)

    @contextlib.contextmanager
    def stage(self, size_bytes: int = 0) -> Iterator[Path]:
        """Create an empty folder on the store's own file system, and remove it when the block is left.

        Raises:
            StorageFullError: the free space is less than `size_bytes` and a reserve.
        """
        self.check_space(size_bytes)
        with self._staging_folder() as folder:
            yield folder

    def check_space(self, size_bytes: int) -> None:
        """Check before anything is written that this many bytes fit.

        Raises:
            StorageFullError: the free space is less than `size_bytes` and a reserve.
        """
        make_folder(self._root, mode=0o755)
        free = shutil.disk_usage(self._root).free
        if free < size_bytes + RESERVE_BYTES:
            raise StorageFullError(
                f"the bundle needs {size_bytes >> 20} MiB and {RESERVE_BYTES >> 20} MiB to spare; "
                f"{free >> 20} MiB are free in {self._root}"
            )

    def verify(self, staged: Path) -> Bundle:
        """Verify a folder that is not installed yet.

        Raises:
            BundleError: not trusted, or not byte for byte as its manifest describes it.
        """
        return open_bundle(staged, self._trusted)

    def holds(self, signed: SignedManifest) -> bool:
        """Return whether exactly this bundle is installed, active or not, and whole."""
        try:
            open_bundle(self._root / signed.name / signed.digest, self._trusted)
        except BundleError:
            return False
        return True

    def activate(self, bundle: Bundle) -> Bundle:
        """Let a verified bundle serve, durably and in one rename; its folder is on the store's file system.

        If the store holds exactly this bundle, that one becomes the latest install, and the given folder stays.
        """
        target = self._root / bundle.name / bundle.digest
        if self.holds(bundle):
            os.utime(target)  # a rollback goes by the order of installs
        else:
            self._place(bundle.folder, target)
        self._point_to(target)
        return bundle.moved_to(target)

    def versions(self, name: str) -> list[str]:
        """Return the digests of the installed versions, oldest install first."""
        home = self._root / name
        folders = [p for p in home.iterdir() if p.is_dir() and not p.is_symlink()] if home.is_dir() else []
        return [p.name for p in sorted(folders, key=lambda p: p.stat().st_ctime_ns)]

    def active(self, name: str) -> str | None:
        """Return the digest of the version that serves, if any."""
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
        self._point_to(bundle.folder)
        return bundle

    def remove(self, name: str) -> None:
        """Uninstall every version.

        Raises:
            BundleError: it is not installed.
        """
        self._check_installed(name)
        self._discard(self._root / name)

    def prune(self, name: str, *, keep: int = 2) -> None:
        """Remove the oldest versions beyond `keep`, never the active one."""
        active = self.active(name)
        for digest in [d for d in self.versions(name) if d != active][: -(keep - 1) or None]:
            self._discard(self._root / name / digest)

    def _check_installed(self, name: str) -> None:
        if name not in self.names():
            raise BundleError(f"the model {name!r} is not installed in {self._root}")

    def _active_folder(self, name: str) -> Path:
        self._check_installed(name)
        return (self._root / name / _ACTIVE).resolve()

    @contextlib.contextmanager
    def _staging_folder(self) -> Iterator[Path]:
        staging = self._root / _STAGING
        staging.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = Path(tempfile.mkdtemp(dir=staging))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _discard(self, folder: Path) -> None:
        """Take a folder out of the store in one rename, then delete it; needs no free space."""
        with self._staging_folder() as staging:
            folder.rename(staging / folder.name)
            sync_folder(folder.parent)

    def _place(self, staged: Path, target: Path) -> None:
        """Make a verified folder durable and rename it to its place; a damaged one there gives way."""
        home = target.parent
        if target.exists():
            self._discard(target)
        make_folder(home, mode=0o755)
        for entry in os.scandir(staged):
            sync_folder(Path(entry.path))
        sync_folder(staged)
        staged.rename(target)
        sync_folder(home)

    def _point_to(self, target: Path) -> None:
        """Replace the link to the version that serves."""
        home = target.parent
        fresh = home / f".{_ACTIVE}.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target.name)
        fresh.replace(home / _ACTIVE)
        sync_folder(home)
