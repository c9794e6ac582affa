"""Uploads as requests see them, of bundles and of updates alike: listed, filled piece by piece, installed once.

Owned by the event loop; everything that touches the disk runs in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from appliance.host.partial_file import PartialFile

T = TypeVar("T")


class ArrivingUpload(Protocol):
    """One upload: its id, the name of the bundle or update, and its files."""

    @property
    def id(self) -> str:
        """The SHA-256 that identifies the content."""

    @property
    def name(self) -> str:
        """The name that the upload is told by."""

    @property
    def files(self) -> tuple[PartialFile, ...]:
        """All files."""

    def file(self, name: str) -> PartialFile:
        """Return one file, or raise UploadNotFoundError."""


class UploadStorage(Protocol):
    """The uploads of one kind on the disk; methods block, and raise UploadNotFoundError for an unknown id."""

    def get(self, upload_id: str) -> ArrivingUpload:
        """Return an upload."""

    def all(self) -> Sequence[ArrivingUpload]:
        """Return every upload."""

    def remove(self, upload_id: str) -> None:
        """Remove an upload."""


@dataclass(frozen=True, slots=True)
class FileProgress:
    """The bytes of one file that have arrived."""

    name: str
    size_bytes: int
    received: int


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """The state of one upload."""

    id: str
    name: str
    files: tuple[FileProgress, ...]
    is_installing: bool

    @classmethod
    def of(cls, upload: ArrivingUpload, *, is_installing: bool) -> UploadProgress:
        """Look at the files; blocks."""
        files = tuple(FileProgress(f.name, f.size_bytes, f.received()) for f in upload.files)
        return cls(upload.id, upload.name, files, is_installing)


class Receiver(Generic[T]):
    """The uploads of one kind. `install` installs a complete one; it is called once at a time for each upload."""

    def __init__(self, storage: UploadStorage, install: Callable[[str], Coroutine[None, None, T]]) -> None:
        self._storage = storage
        self._install = install
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._beginning = asyncio.Lock()
        self._installs: dict[str, asyncio.Task[T]] = {}

    async def begin(self, begin: Callable[[], ArrivingUpload]) -> UploadProgress:
        """Begin or resume an upload with this function, one at a time, so that no space is promised twice."""
        async with self._beginning:
            return await asyncio.to_thread(lambda: self._progress(begin()))

    async def all(self) -> list[UploadProgress]:
        """Return the progress of every upload."""
        return await asyncio.to_thread(lambda: [self._progress(u) for u in self._storage.all()])

    async def get(self, upload_id: str) -> UploadProgress:
        """Return the progress of one upload.

        Raises:
            UploadNotFoundError: there is no such upload.
        """
        return await asyncio.to_thread(lambda: self._progress(self._storage.get(upload_id)))

    async def remove(self, upload_id: str) -> None:
        """Remove an upload and free its space.

        Raises:
            UploadNotFoundError: there is no such upload.
        """
        async with self.lock(upload_id):
            await asyncio.to_thread(self._storage.remove, upload_id)

    @contextlib.asynccontextmanager
    async def writing(self, upload_id: str, name: str) -> AsyncIterator[PartialFile]:
        """Hold the upload while one of its files is appended to.

        Raises:
            UploadNotFoundError: there is no such upload, or no such file in it.
        """
        async with self.lock(upload_id):
            yield await asyncio.to_thread(lambda: self._storage.get(upload_id).file(name))

    def lock(self, upload_id: str) -> asyncio.Lock:
        """Return the lock that is held while this upload changes."""
        return self._locks.setdefault(upload_id, asyncio.Lock())

    async def install(self, upload_id: str) -> T:
        """Install a complete upload, also if the client leaves; requests for the same upload share one install.

        Raises:
            ConflictError: bytes are missing.
            LanternError: refused, with the reason; what serves is unchanged.
        """
        if upload_id not in self._installs:
            task = asyncio.create_task(self._install(upload_id), name=f"install-{upload_id[:8]}")
            self._installs[upload_id] = task
            task.add_done_callback(lambda _: self._installs.pop(upload_id, None))
            task.add_done_callback(lambda t: t.cancelled() or t.exception())
        return await asyncio.shield(self._installs[upload_id])

    async def wait(self) -> None:
        """Wait for running installs."""
        await asyncio.gather(*self._installs.values(), return_exceptions=True)

    def _progress(self, upload: ArrivingUpload) -> UploadProgress:
        return UploadProgress.of(upload, is_installing=upload.id in self._installs)
