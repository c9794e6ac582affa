"""Stages that resume: each fills one folder of the cache, named by the hash of all that decides its content.

A stage is a function with a version; a kind of model lists its stages in order. A stage's hash covers its version, its
part of the recipe, the hashes of the stages that it reads, and the tools: nothing else makes its folder stale.
A folder appears by one rename when its stage is done, so that a kill at any moment leaves a whole stage or none.
One run at a time works below a cache folder, and keeps it within a size: the stages unused for longest go first.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import hashlib
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol, runtime_checkable

from appliance.bundle.manifest import canonical_json
from appliance.errors import QuantizeError
from quantize.progress import StageProgress

_LOGGER = logging.getLogger(__name__)

_TOOLS = ("numpy", "onnx", "onnx-ir", "onnxruntime", "optimum", "optimum-onnx", "tokenizers", "torch", "transformers")
PARTIAL = ".partial-"  # begins the name of a folder that a killed run leaves, swept by the next
DEFAULT_LIMIT_BYTES = 20 * 10**9  # of finished stages; SmolLM2-135M takes 2.7e9, four copies of its float weights

_SHORT_MEMORY = ("can't allocate memory", "cannot allocate memory", "failed to allocate memory", "bad_alloc")
_KEY_DIGITS = 24  # of a folder's name

Work = Callable[..., None]  # (target, part of the recipe, progress, *, one folder for each input)


@runtime_checkable
class Identified(Protocol):
    """A part of a recipe that names files, and so has an identity by their content."""

    def identity(self) -> dict[str, object]:
        """Return the JSON fields that decide the output of a stage with this part."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A function that fills one folder from those of earlier stages, its name, and its version."""

    name: str
    version: int
    work: Work

    def step(self, part: object = None, *, needed: bool = True, kept: bool = True, **inputs: str | None) -> Step:
        """Place the stage in a list.

        Args:
            part: its part of the recipe, a JSON value or `Identified`.
            needed: False leaves the stage out for this recipe.
            kept: False removes the folder when the stages that read it are done, and runs the stage only for them.
            inputs: for each folder that the function takes, the name of the stage that fills it; None for no folder.
        """
        return Step(self, part, {role: name for role, name in inputs.items() if name is not None}, needed, kept)


def stage(name: str, *, version: int) -> Callable[[Work], Stage]:
    """Declare a function as a stage; raise the version when the function writes something else."""
    return lambda work: Stage(name, version, work)


@dataclass(frozen=True, slots=True)
class StageOutput:
    """A finished stage: its folder and the hash that names it."""

    folder: Path
    key: str


@dataclass(frozen=True, slots=True)
class Step:
    """One stage in the list of a kind of model, wired to the stages before it."""

    stage: Stage
    part: object
    inputs: Mapping[str, str]
    needed: bool = True
    kept: bool = True

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    def key(self, outputs: Mapping[str, StageOutput], tools: Mapping[str, str]) -> str:
        """Return the hash of all that decides the content of the folder."""
        part = self.part.identity() if isinstance(self.part, Identified) else self.part
        reads = {role: outputs[name].key for role, name in self.inputs.items()}
        fields = {"stage": self.name, "version": self.stage.version, "part": part, "reads": reads}
        return content_key({**fields, "tools": dict(tools)})


def steps_to(steps: Sequence[Step], name: str) -> list[Step]:
    """Select the steps that lead to the named one, itself included."""
    wanted, found = {name}, []
    for step in reversed(steps):
        if step.name in wanted:
            wanted.update(step.inputs.values())
            found.append(step)
    return found[::-1]


class StageCache:
    """The stage folders below one root; made by `open_stage_cache`, which gives the root to this run alone."""

    def __init__(self, root: Path, progress: StageProgress) -> None:
        self.root = root
        self._progress = progress
        self._tools = tool_versions()
        self._needed: set[str] = set()

    def run_all(self, steps: Sequence[Step], given: Mapping[str, StageOutput]) -> dict[str, StageOutput]:
        """Run or resume the steps that are needed, in order; `given` holds the outputs that come from elsewhere."""
        needed = [step for step in steps if step.needed]
        outputs = self._outputs(needed, given)
        wanted = {step.name for step in needed if step.kept} | {step.name for step in self.missing(steps, given)}
        for at, step in enumerate(needed):
            if step.name in wanted:
                outputs[step.name] = self.run(step, outputs)
            for passing in needed[:at]:
                if not any(passing.name in later.inputs.values() for later in needed[at + 1 :]) and not passing.kept:
                    shutil.rmtree(outputs[passing.name].folder, ignore_errors=True)
        return outputs

    def missing(self, steps: Sequence[Step], given: Mapping[str, StageOutput]) -> list[Step]:
        """List the steps that `run_all` would run; those whose folder is not kept only if a stage needs it."""
        needed = [step for step in steps if step.needed]
        outputs, found, read = self._outputs(needed, given), [], set[str]()
        for step in reversed(needed):
            if (step.kept or step.name in read) and not outputs[step.name].folder.is_dir():
                found.append(step)
                read.update(step.inputs.values())
        return found[::-1]

    def _outputs(self, steps: Sequence[Step], given: Mapping[str, StageOutput]) -> dict[str, StageOutput]:
        outputs = dict(given)
        for step in steps:
            key = step.key(outputs, self._tools)
            outputs[step.name] = StageOutput(self.root / _folder_name(step.name, key), key)
        return outputs

    def run(self, step: Step, outputs: Mapping[str, StageOutput]) -> StageOutput:
        """Fill the step's folder, if no earlier run has.

        Raises:
            QuantizeError: the work failed; no part of the folder is left.
        """
        key = step.key(outputs, self._tools)
        folder = self.root / _folder_name(step.name, key)
        self._needed.add(folder.name)
        if folder.is_dir():
            _LOGGER.info("stage %s is unchanged: %s", step.name, folder.name)
            self._progress.note(f"{step.name}: unchanged, skipped")
            os.utime(folder)
            return StageOutput(folder, key)
        folders = {role: outputs[name].folder for role, name in step.inputs.items()}
        with self._progress.stage(step.name) as progress, _partial_folder(self.root, step.name) as partial:
            try:
                step.stage.work(partial, step.part, progress, **folders)
            except OSError as err:
                raise QuantizeError(f"{step.name} stopped: {err.strerror or err} ({self.root})") from err
            except Exception as err:
                if not _is_short_memory(err):
                    raise
                raise QuantizeError(
                    f"{step.name} stopped: memory is short; close other programs, or build on a larger machine"
                ) from err
            partial.rename(folder)
        _give_memory_back()
        return StageOutput(folder, key)

    def keep_within(self, limit_bytes: int) -> None:
        """Remove the stages that this run did not need, those unused for longest first, until the rest fits."""
        folders = sorted(_finished(self.root), key=lambda folder: folder.stat().st_mtime_ns)
        sizes = {folder: _size_bytes(folder) for folder in folders}
        for folder in folders:
            if sum(sizes.values()) <= limit_bytes:
                break
            if folder.name not in self._needed:
                _LOGGER.info("removing %s, which this run did not need", folder.name)
                shutil.rmtree(folder, ignore_errors=True)
                del sizes[folder]
        self._progress.note(f"stages: {sum(sizes.values()) / 1e9:.1f} GB in {self.root} make the next build shorter")


def remove_stages(root: Path, progress: StageProgress) -> int:
    """Remove all finished stages and return the bytes that they took.

    Raises:
        QuantizeError: a run works there.
    """
    with open_stage_cache(root, progress):
        folders = _finished(root)
        size_bytes = sum(map(_size_bytes, folders))
        for folder in folders:
            shutil.rmtree(folder)
        return size_bytes


@contextlib.contextmanager
def open_stage_cache(root: Path, progress: StageProgress) -> Iterator[StageCache]:
    """Claim the cache folder for this run and sweep the leftovers of a killed one.

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
        yield StageCache(root, progress)


def tool_versions() -> dict[str, str]:
    """Return the versions of all packages whose code decides the bytes of a bundle.

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
    """Return the SHA-256 of a JSON value's canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def replace_folder(fresh: Path, target: Path) -> None:
    """Put a finished folder in the place of an older one, on the same file system."""
    old = target.parent / f".{target.name}.old-{os.getpid()}"
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _give_memory_back() -> None:
    """Return what a stage has freed to the system: the export alone leaves gigabytes in glibc's lists."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _is_short_memory(err: Exception) -> bool:
    """Tell if an allocation failed; torch and onnxruntime have no class of their own for that."""
    said = str(err).lower()
    return isinstance(err, MemoryError) or any(words in said for words in _SHORT_MEMORY)


def _folder_name(name: str, key: str) -> str:
    return f"{name}-{key[:_KEY_DIGITS]}"


def _finished(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(PARTIAL)]


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def _partial_folder(root: Path, name: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{name}-", dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
