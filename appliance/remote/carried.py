"""A bundle as it is carried to a device: a folder or an archive, read in pieces. Methods block."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Protocol

from appliance.bundle.archive import BundleArchive
from appliance.bundle.folder import read_small
from appliance.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME
from appliance.errors import BundleError


class CarriedBundle(Protocol):
    """What an upload needs of a bundle."""

    def manifest(self) -> tuple[bytes, bytes]:
        """The manifest and its signature, to the byte."""

    def piece(self, name: str, offset: int, size_bytes: int) -> bytes:
        """Part of a file."""

    def close(self) -> None:
        """Let go of it."""


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def manifest(self) -> tuple[bytes, bytes]:
        return read_small(self._folder, MANIFEST_NAME), read_small(self._folder, SIGNATURE_NAME)

    def piece(self, name: str, offset: int, size_bytes: int) -> bytes:
        with (self._folder / name).open("rb") as file:
            file.seek(offset)
            return file.read(size_bytes)

    def close(self) -> None:
        pass


class _Archive:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._archive = BundleArchive(file)

    def manifest(self) -> tuple[bytes, bytes]:
        return self._archive.read(MANIFEST_NAME), self._archive.read(SIGNATURE_NAME)

    def piece(self, name: str, offset: int, size_bytes: int) -> bytes:
        return self._archive.read_at(name, offset, size_bytes)

    def close(self) -> None:
        self._file.close()


def open_carried(path: Path) -> CarriedBundle:
    """A bundle's folder, or an archive of one; to be closed.

    Raises:
        BundleError: neither.
    """
    if path.is_dir():
        return _Folder(path)
    try:
        file = path.open("rb")
    except OSError as err:
        raise BundleError(f"{path} cannot be read: {(err.strerror or str(err)).lower()}") from err
    try:
        return _Archive(file)
    except BundleError:
        file.close()
        raise
