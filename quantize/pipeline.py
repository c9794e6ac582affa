"""Stages that resume: each fills one folder of the cache, named by the hash of all that decides its content.

A folder appears by one rename when its stage is done, so that a kill at any moment leaves a whole stage or none.
One run at a time works below a cache folder, and keeps it within a size: what was not used for longest goes first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from appliance.bundle.manifest import canonical_json
from appliance.errors import QuantizeError
from quantize.progress import StageProgress

_LOGGER = logging.getLogger(__name__)

_TOOLS = ("numpy", "onnx", "onnx-ir", "onnxruntime", "optimum", "optimum-onnx", "tokenizers", "torch", "transformers")
PARTIAL = ".partial-"  # what a killed run leaves, swept by the next
DEFAULT_LIMIT_BYTES = 20 * 10**9  # of finished stages; SmolLM2-135M takes 2.7e9, four copies of its float weights

_KEY_DIGITS = 24  # of a folder's name

Work = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class StageOutput:
    """A finished stage: its folder and the hash that names it."""

    folder: Path
    key: str


class Stages:
    """The stage folders below one root; made by `open_stages`, which gives the root to this run alone."""

    def __init__(self, root: Path, progress: StageProgress) -> None:
        self.root = root
        self._progress = progress
        self._tools = tool_versions()
        self._given: set[str] = set()

    def run(self, title: str, *, version: int, inputs: object, work: Work) -> StageOutput:
        """Give the stage's folder, after `work` has filled it if no earlier run has.

        `inputs` is any JSON value that names all that the stage reads; `version` rises when its code changes meaning.

        Raises:
            QuantizeError: the work failed; nothing is left of it.
        """
        key = content_key({"stage": title, "version": version, "inputs": inputs, "tools": self._tools})
        slug = title.split()[0].lower()
        folder = self.root / f"{slug}-{key[:_KEY_DIGITS]}"
        if folder.is_dir():
            _LOGGER.info("stage %s is unchanged: %s", slug, folder.name)
            if key not in self._given:
                self._progress.note(f"{title}: unchanged, skipped")
            self._given.add(key)
            os.utime(folder)
            return StageOutput(folder, key)
        with self._progress.stage(title), _partial_folder(self.root, slug) as partial:
            try:
                work(partial)
            except OSError as err:
                raise QuantizeError(f"{title} stopped: {err.strerror or err} ({self.root})") from err
            partial.rename(folder)
        self._given.add(key)
        return StageOutput(folder, key)

    def keep_within(self, limit_bytes: int) -> None:
        """Remove the stages that this run did not need, those unused for longest first, until the rest fits."""
        folders = sorted(_finished(self.root), key=lambda folder: folder.stat().st_mtime_ns)
        sizes = {folder: _size_bytes(folder) for folder in folders}
        needed = {f"-{key[:_KEY_DIGITS]}" for key in self._given}
        for folder in folders:
            if sum(sizes.values()) <= limit_bytes:
                break
            if not folder.name.endswith(tuple(needed)):
                _LOGGER.info("removing %s, which this run did not need", folder.name)
                shutil.rmtree(folder, ignore_errors=True)
                del sizes[folder]
        self._progress.note(f"stages: {sum(sizes.values()) / 1e9:.1f} GB in {self.root} make the next build shorter")


def remove_stages(root: Path, progress: StageProgress) -> int:
    """Remove all finished stages; the bytes that they took.

    Raises:
        QuantizeError: a run works there.
    """
    with open_stages(root, progress):
        folders = _finished(root)
        size_bytes = sum(map(_size_bytes, folders))
        for folder in folders:
            shutil.rmtree(folder)
        return size_bytes


@contextlib.contextmanager
def open_stages(root: Path, progress: StageProgress) -> Iterator[Stages]:
    """Claim the cache folder for this run and sweep what a killed one left.

    Raises:
        QuantizeError: another run works there.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            raise QuantizeError(f"another lantern-quantize works in {root}; wait for it to finish") from err
        for stale in root.glob(f"{PARTIAL}*"):
            shutil.rmtree(stale, ignore_errors=True)
        yield Stages(root, progress)


def tool_versions() -> dict[str, str]:
    """Versions of everything whose code decides the bytes of a bundle.

    Raises:
        QuantizeError: one of them is not installed.
    """
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in _TOOLS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError as err:
            raise QuantizeError(
                f"the package {name} is missing; install the workstation's half: lantern-appliance[quantize]"
            ) from err
    return versions


def content_key(value: object) -> str:
    """SHA-256 of a JSON value's canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def replace_folder(fresh: Path, target: Path) -> None:
    """Put a finished folder in the place of an older one, on the same file system."""
    old = target.parent / f".{target.name}.old-{os.getpid()}"
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _finished(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(PARTIAL)]


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def _partial_folder(root: Path, slug: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{slug}-", dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
