"""A file that was cut into pieces for transport: found by the pieces' names, joined once, hashed.

A piece is called NAME.gguf.partNN, partNN.bin (with any text before `part`), or NAME.zip.NNN.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import QuantizeError

_FORMS = (
    re.compile(r"(?P<name>.+\.(?:gguf|zip))\.(?:part)?(?P<index>\d+)"),
    re.compile(r"(?P<name>(?:.*[-_.])?part)[-_]?(?P<index>\d+)(?:\.bin)?"),
)
_ENDINGS = {b"GGUF": ".gguf", b"PK\x03\x04": ".zip"}
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Piece:
    """The name of a piece: the file that it belongs to, and its place in it."""

    name: str
    index: int


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def chunks_beside(path: Path) -> list[Path]:
    """Return all pieces of the file that this one is a piece of; none if it is a whole file."""
    piece = _piece(path)
    if piece is None:
        return []
    found = [p for p in path.parent.iterdir() if (other := _piece(p)) and other.name == piece.name]
    return sorted(found, key=_index)


def is_chunk(path: Path) -> bool:
    """Return True if the name is that of a piece."""
    return _piece(path) is not None


def join_chunks(chunks: Sequence[Path], folder: Path) -> Path:
    """Return the whole file below the folder, made now unless it is there with the same size.

    Raises:
        QuantizeError: a piece is missing, they are of different files, or the whole is no known kind of file.
    """
    names = {piece.name for chunk in chunks if (piece := _piece(chunk))}
    if len(names) != 1:
        raise QuantizeError(f"the pieces belong to {len(names)} files; give those of one")
    name = names.pop()
    indices = [_index(chunk) for chunk in chunks]
    if indices != list(range(indices[0], indices[0] + len(chunks))) or indices[0] > 1:
        raise QuantizeError(f"of {name} the pieces {indices} are here; one is missing or out of order")
    target = folder / "joined" / _place(chunks) / _whole_name(name, chunks[0])
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


def _whole_name(name: str, first: Path) -> str:
    """Return the name of the joined file, whose kind its first bytes tell where the pieces' names do not."""
    if name.endswith(tuple(_ENDINGS.values())):
        return name
    with first.open("rb") as file:
        ending = _ENDINGS.get(file.read(4))
    if ending is None:
        raise QuantizeError(f"the pieces from {first.name} on are neither a GGUF file nor a zip file")
    return (name.removesuffix("part").rstrip("-_.") or "model") + ending


def _place(chunks: Sequence[Path]) -> str:
    """Return a folder of its own for these pieces as they are now."""
    facts = [f"{chunk.resolve()} {chunk.stat().st_size} {chunk.stat().st_mtime_ns}" for chunk in chunks]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _piece(path: Path) -> _Piece | None:
    match = next((match for form in _FORMS if (match := form.fullmatch(path.name))), None)
    return None if match is None else _Piece(match["name"], int(match["index"]))


def _index(chunk: Path) -> int:
    piece = _piece(chunk)
    return piece.index if piece else 0
