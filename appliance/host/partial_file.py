"""A file that arrives in pieces: each is appended where the last one ended, so the file's size tells the next offset.

Methods block; one thread at a time may append to one file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import ConflictError, LanternError, StorageFullError


class UploadNotFoundError(LanternError):
    """An upload, or a file of it, that does not exist."""

    status = 404
    type = "invalid_request_error"
    code = "upload_not_found"


class OffsetError(ConflictError):
    """A piece that does not begin where the last one ended, at `received`."""

    code = "offset_mismatch"

    def __init__(self, message: str, *, received: int) -> None:
        super().__init__(message)
        self.received = received


@dataclass(frozen=True, slots=True)
class PartialFile:
    """One file of an upload; `name` is its name on the wire, `size_bytes` its size once it is complete."""

    name: str
    size_bytes: int
    path: Path

    def received(self) -> int:
        """Return the number of bytes that have arrived."""
        try:
            return self.path.lstat().st_size
        except FileNotFoundError:
            return 0

    def append(self, offset: int, data: bytes) -> int:
        """Append a piece, and return the file's new size; a complete file is durable.

        Raises:
            OffsetError: the piece does not begin where the file ends, or ends beyond its size.
            StorageFullError: the disk is full; the bytes that were written are kept.
            UploadNotFoundError: the upload was removed.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self.path, flags, 0o600)
        except FileNotFoundError as err:
            raise UploadNotFoundError("The upload was removed meanwhile.") from err
        try:
            size = os.fstat(fd).st_size
            if offset != size:
                raise OffsetError(f"{size} bytes of {self.name} are here; send the bytes after them.", received=size)
            if size + len(data) > self.size_bytes:
                raise OffsetError(f"{self.name} has {self.size_bytes} bytes and no more.", received=size)
            _write_all(fd, data, offset)
            if size + len(data) == self.size_bytes:
                os.fsync(fd)
            return size + len(data)
        finally:
            os.close(fd)


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    try:
        while view:
            written = os.pwrite(fd, view, offset)
            view, offset = view[written:], offset + written
    except OSError as err:
        raise StorageFullError(
            f"The disk took no more bytes of the upload: {err.strerror}; the bytes that arrived are kept."
        ) from err
