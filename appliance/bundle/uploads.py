"""Bundles that arrive in pieces: begun with a manifest whose signature was verified, and kept over restarts.

Layout: `.uploads/ID/` below the store's root, on its file system, so that a rename installs a complete one. The id is
the manifest's SHA-256, and the sizes of the files tell the bytes that have arrived, so that a client that begins the
same upload again resumes where it stopped. Methods block; one thread at a time may change one upload.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle.folder import describe_bundle, verify_file
from appliance.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest
from appliance.bundle.signed_manifest import SignedManifest
from appliance.bundle.store import BundleStore
from appliance.errors import BundleError
from appliance.host.files import make_folder, sync_folder, write_atomically
from appliance.host.partial_file import PartialFile, UploadNotFoundError

_FOLDER = ".uploads"
_ID = re.compile(r"^[0-9a-f]{64}$")


@dataclass(frozen=True, slots=True)
class Upload:
    """A bundle of which some bytes have arrived. Its signature is verified; its files are not until the install."""

    id: str
    folder: Path
    signed: SignedManifest

    @property
    def name(self) -> str:
        """The name of the bundle."""
        return self.signed.name

    @property
    def manifest(self) -> Manifest:
        """The manifest that the upload began with."""
        return self.signed.manifest

    @property
    def files(self) -> tuple[PartialFile, ...]:
        """The files that the manifest names."""
        return tuple(PartialFile(f.name, f.size_bytes, self.folder / f.name) for f in self.manifest.files)

    @property
    def missing_bytes(self) -> int:
        """Bytes that have not arrived."""
        return self.manifest.size_bytes - sum(file.received() for file in self.files)

    def file(self, name: str) -> PartialFile:
        """Return one of the files.

        Raises:
            UploadNotFoundError: the manifest names no such file.
        """
        for file in self.files:
            if file.name == name:
                return file
        raise UploadNotFoundError("The manifest names no such file.")


class Uploads:
    """The unfinished uploads of one store.

    A manifest is verified once, when its upload begins or is first found after a restart, and then kept in memory: the
    id is the SHA-256 of its bytes. That its key is still trusted is checked each time.
    """

    def __init__(self, store: BundleStore, *, max_uploads: int = 4) -> None:
        """Beyond `max_uploads`, remove the upload that was idle for longest."""
        self._store = store
        self._root = store.root / _FOLDER
        self._max_uploads = max_uploads
        self._verified: dict[str, SignedManifest] = {}

    def begin(self, signed: SignedManifest) -> Upload:
        """Begin or resume the upload of the bundle that this manifest describes.

        Raises:
            StorageFullError: it does not fit next to the bytes that other uploads still need.
        """
        folder = self._root / signed.digest
        upload = Upload(signed.digest, folder, signed)
        if folder.is_dir():
            _tidy(folder, signed.manifest)
            if (folder / SIGNATURE_NAME).read_bytes() != signed.signature:
                write_atomically(folder / SIGNATURE_NAME, signed.signature)
        others = [u for u in self.all() if u.id != upload.id]
        while len(others) >= self._max_uploads:
            oldest = min(others, key=lambda u: _touched_ns(u.folder))
            self.remove(oldest.id)
            others.remove(oldest)
        self._store.check_space(upload.missing_bytes + sum(u.missing_bytes for u in others))
        if not folder.is_dir():
            self._create(upload)
        self._verified[upload.id] = signed
        return upload

    def get(self, upload_id: str) -> Upload:
        """Return an upload that was begun.

        Raises:
            UploadNotFoundError: it was never begun, was installed, or was removed.
            BundleError: its key is no longer trusted.
        """
        folder = self._folder(upload_id)
        signed = self._verified.get(upload_id)
        if signed is None:
            signed = describe_bundle(folder, self._store.trusted)
            if signed.digest != upload_id:
                raise BundleError(f"the upload {upload_id[:12]} holds another manifest; begin it again")
            self._verified[upload_id] = signed
        self._store.trusted.require(signed.signer)
        return Upload(upload_id, folder, signed)

    def all(self) -> list[Upload]:
        """Return every upload whose key is still trusted."""
        found = []
        for folder in sorted(self._root.iterdir()) if self._root.is_dir() else ():
            with contextlib.suppress(BundleError, UploadNotFoundError):
                found.append(self.get(folder.name))
        return found

    def remove(self, upload_id: str) -> None:
        """Remove an upload and free its space.

        Raises:
            UploadNotFoundError: there is no such upload.
        """
        shutil.rmtree(self._folder(upload_id))
        self._verified.pop(upload_id, None)

    def drop_damaged(self, upload: Upload) -> list[str]:
        """Remove the files whose content is not the signed one, so that they are sent again; return their names."""
        damaged = []
        for entry in upload.manifest.files:
            try:
                verify_file(upload.folder, entry)
            except BundleError:
                (upload.folder / entry.name).unlink(missing_ok=True)
                damaged.append(entry.name)
        return damaged

    def sweep(self) -> None:
        """Remove folders that are no upload: the remains of a kill at its beginning or end."""
        for folder in self._root.iterdir() if self._root.is_dir() else ():
            try:
                self.get(folder.name)
            except (BundleError, UploadNotFoundError):
                shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, upload_id: str) -> Path:
        folder = self._root / upload_id
        if not _ID.match(upload_id) or not folder.is_dir():
            self._verified.pop(upload_id, None)
            raise UploadNotFoundError("There is no such upload; begin it (again) by sending its manifest.")
        return folder

    def _create(self, upload: Upload) -> None:
        make_folder(self._root)
        staged = Path(tempfile.mkdtemp(dir=self._root))
        try:
            write_atomically(staged / MANIFEST_NAME, upload.signed.data)
            write_atomically(staged / SIGNATURE_NAME, upload.signed.signature)
            for entry in upload.manifest.files:
                if not entry.size_bytes:
                    (staged / entry.name).touch(0o600)
            staged.rename(upload.folder)
            sync_folder(self._root)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def _tidy(folder: Path, manifest: Manifest) -> None:
    """Remove temporary files that a kill left."""
    named = {MANIFEST_NAME, SIGNATURE_NAME, *(f.name for f in manifest.files)}
    for path in folder.iterdir():
        if path.name not in named:
            path.unlink()


def _touched_ns(folder: Path) -> int:
    return max((p.lstat().st_mtime_ns for p in folder.iterdir()), default=0)
