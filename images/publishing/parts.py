"""The parts of a release that are built twice: two builds of one commit have to be the same to the bit."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from images.deb.build import build_deb
from images.downloads import sha256_of
from images.token_table import FOLDER, NAME
from images.workplace import ROOT, run, say

# Processor and Python of each package: trixie, a Jetson with JetPack 7, and a machine of the reader's own with trixie.
DEBS = (("arm64", "3.13"), ("arm64", "3.12"), ("amd64", "3.13"))


@dataclass(frozen=True, slots=True)
class Part:
    """Files of a release, by the function that builds them into a folder."""

    name: str
    build: Callable[[Path], object]


def wheel() -> Part:
    """Return the Python package, for `pip install`."""
    return Part("the wheel", build_wheel)


def debs(kinds: Sequence[tuple[str, str]] = DEBS) -> list[Part]:
    """Return the Debian packages."""

    def of(architecture: str, python: str) -> Part:
        return Part(f"the package for {architecture}", lambda out: build_deb(architecture, python, out))

    return [of(*kind) for kind in kinds]


def build_wheel(out: Path) -> Path:
    """Build the wheel of the last commit.

    Raises:
        SystemExit: hatchling fails, or the table of tokens could not be had.
    """
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD"], capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="lantern-wheel-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", out, cwd=Path(folder))
    [target] = out.glob("*.whl")
    with zipfile.ZipFile(target) as built:
        if f"{FOLDER}/{NAME}" not in built.namelist():
            raise SystemExit(f"{target.name} has no {NAME}: its package could not be downloaded.")
    say(f"{target} ({target.stat().st_size / 1e6:.1f} MB)")
    return target


def build_twice(parts: Sequence[Part], out: Path) -> list[Path]:
    """Build every part into `out`, and once more elsewhere; return the files.

    Raises:
        SystemExit: the two builds of a part differ.
    """
    files: list[Path] = []
    for part in parts:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".again-") as folder:
            once, again = Path(folder) / "once", Path(folder) / "again"
            for target in (once, again):
                target.mkdir()
                part.build(target)
            _compare(part.name, once, again)
            files.extend(path.rename(out / path.name) for path in sorted(once.iterdir()))
        say(f"Two builds of {part.name} are the same.")
    return files


def _compare(name: str, once: Path, again: Path) -> None:
    first, second = ({path.name: sha256_of(path) for path in folder.iterdir()} for folder in (once, again))
    differing = sorted(file for file in first.keys() | second.keys() if first.get(file) != second.get(file))
    if differing or not first:
        raise SystemExit(f"Two builds of {name} differ: {', '.join(differing) or 'there is no file'}.")
