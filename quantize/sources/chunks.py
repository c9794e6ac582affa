"""A file that was cut into pieces for transport: found by the pieces' names, joined once, hashed."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from appliance.errors import QuantizeError

_CHUNK = re.compile(r"(?P<name>.+\.gguf)\.part(?P<index>\d+)")
_READ_BYTES = 1 << 20


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def chunks_beside(path: Path) -> list[Path]:
    """All pieces of the file that this one is a piece of (NAME.gguf.part00 and so on); empty where it is none."""
    match = _CHUNK.fullmatch(path.name)
    if match is None:
        return []
    found = [p for p in path.parent.iterdir() if (m := _CHUNK.fullmatch(p.name)) and m["name"] == match["name"]]
    return sorted(found, key=_index)


def is_chunk(path: Path) -> bool:
    """Whether the name says so."""
    return _CHUNK.fullmatch(path.name) is not None


def join_chunks(chunks: Sequence[Path], folder: Path) -> Path:
    """The whole file below the folder, made now unless it is there with the same size.

    Raises:
        QuantizeError: a piece is missing, or they are of different files.
    """
    names = {match["name"] for chunk in chunks if (match := _CHUNK.fullmatch(chunk.name))}
    if len(names) != 1:
        raise QuantizeError(f"the pieces belong to {len(names)} files; give those of one")
    indices = [_index(chunk) for chunk in chunks]
    if indices != list(range(indices[0], indices[0] + len(chunks))) or indices[0] > 1:
        raise QuantizeError(f"of {names.pop()} the pieces {indices} are here; one is missing or out of order")
    target = folder / "joined" / _place(chunks) / names.pop()
    if target.is_file() and target.stat().st_size == sum(chunk.stat().st_size for chunk in chunks):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        try:
            for chunk in chunks:
                with chunk.open("rb") as part:
                    shutil.copyfileobj(part, file, _READ_BYTES)
            file.close()
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return target


def _place(chunks: Sequence[Path]) -> str:
    """A folder of its own for these pieces as they are now."""
    facts = [f"{chunk.resolve()} {chunk.stat().st_size} {chunk.stat().st_mtime_ns}" for chunk in chunks]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _index(chunk: Path) -> int:
    match = _CHUNK.fullmatch(chunk.name)
    return int(match["index"]) if match else 0
