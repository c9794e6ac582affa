"""One bundle in one folder: opened after its signature and every byte were verified, written next to its files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SIGNATURE_NAME, FileEntry, Manifest
from appliance.bundle.signed_manifest import SignedManifest, verify_manifest
from appliance.bundle.signing import SigningKey
from appliance.bundle.trusted_keys import TrustedKeys
from appliance.errors import BundleError

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Bundle(SignedManifest):
    """A folder whose signature and every file were verified; only `open_bundle` makes one."""

    folder: Path

    def path(self, name: str) -> Path:
        """Return the path of one of the manifest's files.

        Raises:
            BundleError: the manifest names no such file.
        """
        if not self.has(name):
            raise BundleError(f"the bundle {self.name} has no file {name}")
        return self.folder / name

    def moved_to(self, folder: Path) -> Bundle:
        """Return the same bundle after its folder was renamed."""
        return replace(self, folder=folder)


def describe_bundle(folder: Path, trusted: TrustedKeys) -> SignedManifest:
    """Verify the signature, but not the files.

    Raises:
        BundleError: missing, or not trusted.
    """
    if not folder.is_dir():
        raise BundleError(f"there is no bundle at {folder}")
    return verify_manifest(read_small(folder, MANIFEST_NAME), read_small(folder, SIGNATURE_NAME), trusted)


def open_bundle(folder: Path, trusted: TrustedKeys) -> Bundle:
    """Verify the signature, then every file, before anything else of the bundle is parsed.

    Raises:
        BundleError: missing, not trusted, or not byte for byte as the manifest describes it.
    """
    signed = describe_bundle(folder, trusted)
    files = signed.manifest.files
    present = {entry.name for entry in os.scandir(folder)}
    unknown = present - {f.name for f in files} - {MANIFEST_NAME, SIGNATURE_NAME}
    if unknown:
        raise BundleError(f"{folder} holds {min(unknown)}, which the manifest does not name")
    for entry in files:
        verify_file(folder, entry)
    return Bundle(signed.manifest, signed.signer, signed.data, signed.signature, folder)


def write_bundle(folder: Path, manifest: Manifest, key: SigningKey) -> None:
    """Write the manifest and its signature next to files that exist already."""
    data = manifest.to_bytes()
    (folder / MANIFEST_NAME).write_bytes(data)
    (folder / SIGNATURE_NAME).write_bytes(key.sign(data))


def describe_files(folder: Path, names: Iterable[str]) -> tuple[FileEntry, ...]:
    """Return sizes and hashes of these files, sorted by name."""
    entries = []
    for name in sorted(names):
        digest = hashlib.sha256()
        with (folder / name).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
            size = file.tell()
        entries.append(FileEntry(name=name, size_bytes=size, sha256=digest.hexdigest()))
    return tuple(entries)


def read_small(folder: Path, name: str, limit_bytes: int = MAX_MANIFEST_BYTES) -> bytes:
    """Read a manifest or a signature.

    Raises:
        BundleError: missing, too large, or not a regular file with one link.
    """
    with _open_regular(folder, name) as fd:
        if os.fstat(fd).st_size > limit_bytes:
            raise BundleError(f"{name} in {folder} is larger than {limit_bytes} bytes")
        return os.read(fd, limit_bytes)


def read_verified(folder: Path, entry: FileEntry) -> bytes:
    """Read one file, and verify it against the manifest's entry.

    Raises:
        BundleError: it differs, or it is not a regular file with one link.
    """
    with _open_regular(folder, entry.name) as fd, os.fdopen(fd, "rb", closefd=False) as file:
        data = file.read(entry.size_bytes + 1)
    if len(data) != entry.size_bytes:
        raise BundleError(f"{entry.name} in {folder} has not {entry.size_bytes} bytes; install the bundle again")
    _compare(hashlib.sha256(data).hexdigest(), folder, entry)
    return data


def verify_file(folder: Path, entry: FileEntry) -> None:
    """Compare a file's size and SHA-256 with the manifest's entry.

    Raises:
        BundleError: they differ, or it is not a regular file with one link.
    """
    with _open_regular(folder, entry.name) as fd:
        size = os.fstat(fd).st_size
        if size != entry.size_bytes:
            raise BundleError(
                f"{entry.name} in {folder} has {size} bytes instead of {entry.size_bytes}; install the bundle again"
            )
        digest = hashlib.sha256()
        while chunk := os.read(fd, _CHUNK_BYTES):
            digest.update(chunk)
    _compare(digest.hexdigest(), folder, entry)


def _compare(sha256: str, folder: Path, entry: FileEntry) -> None:
    if sha256 != entry.sha256:
        raise BundleError(f"{entry.name} in {folder} is damaged (its SHA-256 differs); install the bundle again")


@contextlib.contextmanager
def _open_regular(folder: Path, name: str) -> Iterator[int]:
    """Open a regular file that has one link; a link in any form could lead out of the bundle."""
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
