"""A bundle as one file: an uncompressed ustar archive (POSIX.1-2017, pax: ustar interchange).

The reader accepts regular files with flat names and nothing else: no links, no folders except ".", no devices, no
extended headers, no sparse files, no compression. So extracting never writes more bytes than the archive has.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from appliance.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SIGNATURE_NAME
from appliance.bundle.signed_manifest import SignedManifest, verify_manifest
from appliance.bundle.trusted_keys import TrustedKeys
from appliance.errors import BundleError

_BLOCK_BYTES = 512
_CHUNK_BYTES = 1 << 20
_MAX_MEMBERS = 80  # a manifest names at most 64 files
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
_REGULAR = (b"0", b"\0")
_FOLDER = b"5"


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    start: int
    size_bytes: int


class BundleArchive:
    """The members of an archive, listed and checked before one is extracted."""

    def __init__(self, file: BinaryIO) -> None:
        """Read every header.

        Raises:
            BundleError: the file is not an archive of this form.
        """
        self._file = file
        self._members: dict[str, _Member] = {}
        for member in _members(file):
            if member.name in self._members:
                raise BundleError(f"the archive holds {member.name} twice")
            self._members[member.name] = member

    def read(self, name: str, limit_bytes: int = MAX_MANIFEST_BYTES) -> bytes:
        """Read a small member.

        Raises:
            BundleError: missing, or larger than `limit_bytes`.
        """
        member = self._members.get(name)
        if member is None or member.size_bytes > limit_bytes:
            raise BundleError(f"the archive holds no {name} of at most {limit_bytes} bytes")
        self._file.seek(member.start)
        return self._file.read(member.size_bytes)

    def read_at(self, name: str, offset: int, size_bytes: int) -> bytes:
        """Read a part of a member, and less if the member ends before.

        Raises:
            BundleError: the archive has no such member.
        """
        member = self._members.get(name)
        if member is None:
            raise BundleError(f"the archive holds no {name}")
        self._file.seek(member.start + offset)
        return self._file.read(max(0, min(size_bytes, member.size_bytes - offset)))

    def manifest(self, trusted: TrustedKeys) -> SignedManifest:
        """Verify the manifest's signature, and compare the members' names and sizes with it.

        Raises:
            BundleError: not trusted, or the members are not the files that the manifest names.
        """
        signed = verify_manifest(self.read(MANIFEST_NAME), self.read(SIGNATURE_NAME), trusted)
        named = {f.name: f.size_bytes for f in signed.manifest.files}
        found = {m.name: m.size_bytes for m in self._members.values()}
        differing = dict(found.items() ^ named.items()).keys() - {MANIFEST_NAME, SIGNATURE_NAME}
        if differing:
            raise BundleError(f"the archive and its manifest differ in {min(differing)}; copy the bundle again")
        return signed

    def extract(self, folder: Path) -> None:
        """Write every member into an empty folder.

        Raises:
            BundleError: the archive is cut off, or the folder is not empty.
        """
        for member in self._members.values():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                fd = os.open(folder / member.name, flags, 0o600)
            except FileExistsError as err:
                raise BundleError(f"{member.name} exists already in {folder}") from err
            self._file.seek(member.start)
            with os.fdopen(fd, "wb") as target:
                left = member.size_bytes
                while left:
                    chunk = self._file.read(min(left, _CHUNK_BYTES))
                    if not chunk:
                        raise BundleError(f"the archive ends within {member.name}; copy it again")
                    target.write(chunk)
                    left -= len(chunk)


def write_archive(folder: Path, target: BinaryIO) -> None:
    """Write a bundle's folder as an archive; the same bundle gives the same bytes."""
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        names = sorted(p.name for p in folder.iterdir())
        for name in sorted(names, key=lambda n: n not in {MANIFEST_NAME, SIGNATURE_NAME}):
            info = tarfile.TarInfo(name)
            info.size, info.mode = (folder / name).stat().st_size, 0o644
            with (folder / name).open("rb") as file:
                archive.addfile(info, file)


def _members(file: BinaryIO) -> Iterator[_Member]:
    end = file.seek(0, io.SEEK_END)
    offset = num_members = 0
    while True:
        file.seek(offset)
        header = file.read(_BLOCK_BYTES)
        if not header.strip(b"\0") and offset:
            return
        if len(header) < _BLOCK_BYTES or header[257:262] != b"ustar" or not _has_right_sum(header):
            raise BundleError("this is not an uncompressed tar archive of a bundle")
        size_bytes = _number(header[124:136])
        name, kind = header[:100].rstrip(b"\0").decode("ascii", "replace").removeprefix("./"), header[156:157]
        num_members += 1
        if num_members > _MAX_MEMBERS:
            raise BundleError(f"the archive holds more than {_MAX_MEMBERS} members")
        start = offset + _BLOCK_BYTES
        offset = start + -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES
        if kind == _FOLDER and not name and not size_bytes:
            continue  # `tar -C bundle -cf x.tar .` writes this member
        if kind not in _REGULAR or header[345:500].strip(b"\0") or not _NAME.match(name):
            raise BundleError(f"the archive holds {name[:100]!r}, which is not a regular file with a flat name")
        if start + size_bytes > end:
            raise BundleError(f"the archive ends within {name}; copy it again")
        yield _Member(name, start, size_bytes)


def _has_right_sum(header: bytes) -> bool:
    return sum(header) - sum(header[148:156]) + 8 * ord(" ") == _number(header[148:156])


def _number(field: bytes) -> int:
    """Parse an octal number, or a big-endian one with the first bit set, as large members have it."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    text = field.strip(b"\0 ")
    if not re.fullmatch(rb"[0-7]{0,12}", text):
        raise BundleError("this is not an uncompressed tar archive of a bundle")
    return int(text or b"0", 8)
