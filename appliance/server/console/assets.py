"""The files of the device's page, read and compressed once."""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

PAGE = "index.html"
LANDING = "landing.html"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page: its content, plain and compressed, its type, and the ETag of both."""

    plain: bytes
    compressed: bytes
    content_type: str
    etag: str


@functools.cache
def assets() -> Mapping[str, Asset]:
    """Return the files of the page by name, those of a folder with its name in front."""
    folder = resources.files(__package__) / "static"
    return {name: _asset(name, content) for name, content in _read(folder)}


def _read(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _read(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry.read_bytes()


def _asset(name: str, plain: bytes) -> Asset:
    return Asset(
        plain=plain,
        compressed=gzip.compress(plain, 9, mtime=0),
        content_type=_TYPES["." + name.rpartition(".")[2]],
        etag=f'W/"{hashlib.sha256(plain).hexdigest()[:32]}"',
    )
