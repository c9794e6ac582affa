"""A bundle as it is sent to a device: a folder or an archive, read in pieces. Methods block."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import BinaryIO, Protocol

from appliance.bundle.archive import BundleArchive
from appliance.bundle.folder import read_small
from appliance.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest
from appliance.discovery.record import printable
from appliance.errors import BundleError


class _Files(Protocol):
    def small(self, name: str) -> bytes:
        """Return the manifest or the signature."""

    def part(self, name: str, offset: int, size_bytes: int) -> bytes:
        """Return a part of a file; less if the file ends before."""


class BundleReader:
    """The content of a bundle, to be uploaded."""

    path = "/admin/uploads"

    def __init__(self, path: Path) -> None:
        """Open a bundle's folder, or an archive of one.

        Raises:
            BundleError: neither.
        """
        self._stack = contextlib.ExitStack()
        self._files: _Files = _Folder(path) if path.is_dir() else self._open_archive(path)

    def opening(self) -> dict[str, object]:
        """Return the body of the request that begins or resumes the upload: both texts, to the byte."""
        manifest, signature = self._files.small(MANIFEST_NAME), self._files.small(SIGNATURE_NAME)
        return {"manifest": manifest.decode("utf-8", "replace"), "signature": signature.decode("utf-8", "replace")}

    def piece(self, name: str, offset: int, size_bytes: int) -> bytes:
        """Return a part of a file.

        Raises:
            BundleError: the manifest names no such file, or the file ends before.
        """
        if name not in self._names:  # the device asks for it: it gets nothing else of this machine
            raise BundleError(f"the device asks for {printable(name)!r}, which is no file of the bundle")
        data = self._files.part(name, offset, size_bytes)
        if len(data) != size_bytes:
            raise BundleError(f"{name} is shorter than its manifest says; build or copy the bundle again")
        return data

    @functools.cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(file.name for file in Manifest.from_bytes(self._files.small(MANIFEST_NAME)).files)

    def close(self) -> None:
        """Close the archive."""
        self._stack.close()

    def _open_archive(self, path: Path) -> _Archive:
        try:
            file = self._stack.enter_context(path.open("rb"))
        except OSError as err:
            raise BundleError(f"{path} cannot be read: {(err.strerror or str(err)).lower()}") from err
        try:
            return _Archive(file)
        except BundleError:
            self._stack.close()
            raise


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def small(self, name: str) -> bytes:
        return read_small(self._folder, name)

    def part(self, name: str, offset: int, size_bytes: int) -> bytes:
        with (self._folder / name).open("rb") as file:
            file.seek(offset)
            return file.read(size_bytes)


class _Archive:
    def __init__(self, file: BinaryIO) -> None:
        self._archive = BundleArchive(file)

    def small(self, name: str) -> bytes:
        return self._archive.read(name)

    def part(self, name: str, offset: int, size_bytes: int) -> bytes:
        return self._archive.read_at(name, offset, size_bytes)
