"""Bundles on their way in: begun with a manifest whose signature was verified, filled in pieces, kept over restarts.

Layout: `.uploads/ID/` below the store's root, on its file system, so that a complete one is installed by a rename. The
id is the SHA-256 of the manifest, and what is there is what the files' sizes say, so that whoever begins the same
upload again goes on where it stopped. Methods block; one thread at a time may change one upload.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle.folder import describe_bundle, verify_file
from appliance.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME, FileEntry, Manifest
from appliance.bundle.store import BundleStore
from appliance.errors import BundleError, ConflictError, LanternError, StorageFullError
from appliance.files import sync_folder, write_whole

_FOLDER = ".uploads"
_ID = re.compile(r"^[0-9a-f]{64}$")


class UploadNotFoundError(LanternError):
    """There is no such upload, or no such file in it."""

    status = 404
    type = "invalid_request_error"
    code = "upload_not_found"


class OffsetError(ConflictError):
    """A piece that does not begin where the last one ended; `received` is where that is."""

    code = "offset_mismatch"

    def __init__(self, message: str, *, received: int) -> None:
        super().__init__(message)
        self.received = received


@dataclass(frozen=True, slots=True)
class Upload:
    """A bundle of which some bytes are here. The manifest is verified; the files are not, until the install."""

    id: str
    folder: Path
    manifest: Manifest
    signer: str

    def received(self) -> dict[str, int]:
        """Bytes of each file that are here."""
        return {f.name: _size(self.folder / f.name) for f in self.manifest.files}

    @property
    def missing_bytes(self) -> int:
        """Bytes that are still to come."""
        return self.manifest.size_bytes - sum(self.received().values())


class Uploads:
    """The unfinished uploads of one store."""

    def __init__(self, store: BundleStore, *, max_uploads: int = 4) -> None:
        """Beyond `max_uploads` the one that was left alone for longest gives way."""
        self._store = store
        self._root = store.root / _FOLDER
        self._max_uploads = max_uploads

    def begin(self, manifest_bytes: bytes, signature: bytes) -> Upload:
        """Begin, or go on with, the upload of the bundle that this manifest describes.

        Raises:
            BundleError: the manifest is not valid, or not signed by a key that is trusted.
            StorageFullError: it does not fit, with what the other uploads still want.
        """
        signer = self._store.trusted.verify(manifest_bytes, signature)
        manifest = Manifest.from_bytes(manifest_bytes)
        upload_id = hashlib.sha256(manifest_bytes).hexdigest()
        folder = self._root / upload_id
        if folder.is_dir():
            _tidy(folder, manifest)
            if (folder / SIGNATURE_NAME).read_bytes() != signature:
                write_whole(folder / SIGNATURE_NAME, signature)
        upload = Upload(upload_id, folder, manifest, signer)
        others = [u for u in self.all() if u.id != upload_id]
        while len(others) >= self._max_uploads:
            oldest = min(others, key=lambda u: _touched_ns(u.folder))
            self.remove(oldest.id)
            others.remove(oldest)
        self._store.check_space(upload.missing_bytes + sum(u.missing_bytes for u in others))
        if not folder.is_dir():
            self._make(folder, manifest, manifest_bytes, signature)
        return upload

    def get(self, upload_id: str) -> Upload:
        """An upload that was begun.

        Raises:
            UploadNotFoundError: it was not, or is installed, or gave way to others.
            BundleError: its key is no longer trusted.
        """
        folder = self._root / upload_id
        if not _ID.match(upload_id) or not folder.is_dir():
            raise UploadNotFoundError("There is no such upload; begin it (again) by sending its manifest.")
        bundle = describe_bundle(folder, self._store.trusted)
        return Upload(upload_id, folder, bundle.manifest, bundle.signer)

    def all(self) -> list[Upload]:
        """Every upload whose manifest is still trusted."""
        found = []
        for folder in sorted(self._root.iterdir()) if self._root.is_dir() else ():
            with contextlib.suppress(BundleError, UploadNotFoundError):
                found.append(self.get(folder.name))
        return found

    def remove(self, upload_id: str) -> None:
        """Forget an upload.

        Raises:
            UploadNotFoundError: there is none.
        """
        if not _ID.match(upload_id) or not (self._root / upload_id).is_dir():
            raise UploadNotFoundError("There is no such upload.")
        shutil.rmtree(self._root / upload_id)

    def entry(self, upload: Upload, name: str) -> FileEntry:
        """What the manifest says of a file.

        Raises:
            UploadNotFoundError: it names no such file.
        """
        for entry in upload.manifest.files:
            if entry.name == name:
                return entry
        raise UploadNotFoundError("The manifest names no such file.")

    def write(self, upload: Upload, entry: FileEntry, offset: int, data: bytes) -> int:
        """Append a piece, which has to begin where the file ends; gives its new size.

        Raises:
            OffsetError: it begins elsewhere.
            StorageFullError: the disk is full in spite of what was checked.
        """
        try:
            fd = os.open(upload.folder / entry.name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError as err:
            raise UploadNotFoundError("The upload was removed meanwhile.") from err
        try:
            size = os.fstat(fd).st_size
            if offset != size:
                raise OffsetError(f"{entry.name} has {size} bytes here; send what follows them.", received=size)
            if size + len(data) > entry.size_bytes:
                raise OffsetError(f"{entry.name} has {entry.size_bytes} bytes and no more.", received=size)
            _write_all(fd, data, offset)
            if size + len(data) == entry.size_bytes:
                os.fsync(fd)
            return size + len(data)
        finally:
            os.close(fd)

    def drop_damaged(self, upload: Upload) -> list[str]:
        """Remove the files whose content is not what was signed, so that they are sent again; gives their names."""
        damaged = []
        for entry in upload.manifest.files:
            try:
                verify_file(upload.folder, entry)
            except BundleError:
                (upload.folder / entry.name).unlink(missing_ok=True)
                damaged.append(entry.name)
        return damaged

    def sweep(self) -> None:
        """Remove what is no upload: what a kill left of a beginning or of an end."""
        for folder in self._root.iterdir() if self._root.is_dir() else ():
            try:
                self.get(folder.name)
            except (BundleError, UploadNotFoundError):
                shutil.rmtree(folder, ignore_errors=True)

    def _make(self, folder: Path, manifest: Manifest, manifest_bytes: bytes, signature: bytes) -> None:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        staged = Path(tempfile.mkdtemp(dir=self._root))
        try:
            write_whole(staged / MANIFEST_NAME, manifest_bytes)
            write_whole(staged / SIGNATURE_NAME, signature)
            for entry in manifest.files:
                if not entry.size_bytes:
                    (staged / entry.name).touch(0o600)
            staged.rename(folder)
            sync_folder(self._root)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def _tidy(folder: Path, manifest: Manifest) -> None:
    """Remove what a kill left behind while something was written."""
    named = {MANIFEST_NAME, SIGNATURE_NAME, *(f.name for f in manifest.files)}
    for path in folder.iterdir():
        if path.name not in named:
            path.unlink()


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    try:
        while view:
            written = os.pwrite(fd, view, offset)
            view, offset = view[written:], offset + written
    except OSError as err:
        raise StorageFullError(f"the disk took no more of the upload: {err.strerror}; what is there is kept") from err


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _touched_ns(folder: Path) -> int:
    return max((p.lstat().st_mtime_ns for p in folder.iterdir()), default=0)
