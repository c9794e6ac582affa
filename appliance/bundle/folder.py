"""One bundle in one folder: opened only after its signature and every byte were checked; written beside its files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SIGNATURE_NAME, FileEntry, Manifest
from appliance.bundle.signing import SigningKey, TrustedKeys
from appliance.errors import BundleError

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose signature and files were verified.

    `digest` is the SHA-256 of the manifest as it was signed: the identity of this exact bundle, whatever fields a later
    version of the program knows of.
    """

    folder: Path
    manifest: Manifest
    signer: str
    digest: str

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


def describe_bundle(folder: Path, trusted: TrustedKeys) -> Bundle:
    """Verify the signature, but not the files: what may be said of a bundle, not run.

    Raises:
        BundleError: missing, or not trusted.
    """
    if not folder.is_dir():
        raise BundleError(f"there is no bundle at {folder}")
    data = read_small(folder, MANIFEST_NAME)
    signer = trusted.verify(data, read_small(folder, SIGNATURE_NAME))
    return Bundle(folder, Manifest.from_bytes(data), signer, hashlib.sha256(data).hexdigest())


def open_bundle(folder: Path, trusted: TrustedKeys) -> Bundle:
    """Verify the signature, then every file, as the device does before it parses anything else.

    Raises:
        BundleError: missing, not trusted, or not byte for byte what the manifest says.
    """
    bundle = describe_bundle(folder, trusted)
    present = {entry.name for entry in os.scandir(folder)}
    unknown = present - {f.name for f in bundle.manifest.files} - {MANIFEST_NAME, SIGNATURE_NAME}
    if unknown:
        raise BundleError(f"{folder} holds {min(unknown)}, which the manifest does not name")
    for entry in bundle.manifest.files:
        verify_file(folder, entry)
    return bundle


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


def read_small(folder: Path, name: str, limit_bytes: int = MAX_MANIFEST_BYTES) -> bytes:
    """The content of a manifest or a signature.

    Raises:
        BundleError: missing, too large, or not a regular file of its own.
    """
    with _open_regular(folder, name) as fd:
        if os.fstat(fd).st_size > limit_bytes:
            raise BundleError(f"{name} in {folder} is larger than {limit_bytes} bytes")
        return os.read(fd, limit_bytes)


def verify_file(folder: Path, entry: FileEntry) -> None:
    """Compare a file's size and SHA-256 with what the manifest says.

    Raises:
        BundleError: they differ, or it is not a regular file of its own.
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
