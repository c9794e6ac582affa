"""Trees of arm64 Debian for qemu-user: unpacked, without root and without running anything of them.

The appliance's tree is what `make image` leaves in its cache, Debian with the package, or else both unpacked. The tree
of llama.cpp has Debian's own package, which chooses its instructions at run time.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from images.apt_sources import trixie_sources
from images.deb.build import build_deb
from images.raspberry_pi.image import PYTHON
from images.wheels import site_packages
from images.workplace import ROOT, cache, run, say

_EMULATORS = ("qemu-aarch64", "qemu-aarch64-static")
_QEMU_MAJOR = 10  # 10.0 was seen to run everything here, 7.2 was not; nothing between was tried
_TOOLS = ("mmdebstrap", "dpkg-deb")
_MINIMAL = ("python3", "libstdc++6")
_PARTS = ("./opt/lantern", "./usr/bin/python3.13", "./usr/lib/python3.13", "./usr/lib/aarch64-linux-gnu")
_LINKER = "./usr/lib/ld-linux-aarch64.so.1"
_COUNTING_SUITE = "bookworm"  # the last one whose emulator takes plugins
_LLAMA_SUITE = "forky"  # the first one with llama.cpp
_LLAMA_PACKAGES = ("libc6", "libgcc-s1", "libstdc++6", "libgomp1", "libssl3t64", "libllama-dev", "llama.cpp-tools")


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree, and the environment of the programs in it."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, processor: str, *program: str | Path, plugin: str | None = None) -> list[str]:
        """Return the command that runs a program on an emulated processor; `plugin` with its options."""
        words = [emulator_name()] if plugin is None else [*counting_emulator(), "-plugin", plugin]
        words += ["-cpu", processor, "-L", str(self.root)]
        for name, value in {"LD_LIBRARY_PATH": "/usr/lib/aarch64-linux-gnu", **self.environment}.items():
            words += ["-E", f"{name}={value}"]
        return words + [str(word) for word in program]

    def python(self, processor: str, *arguments: str | Path, plugin: str | None = None) -> list[str]:
        """Return the command that runs the tree's Python."""
        return self.command(processor, self.root / f"usr/bin/python{PYTHON}", *arguments, plugin=plugin)


def emulator_name() -> str:
    """Return the emulator that is installed, from either of Debian's packages."""
    return next((name for name in _EMULATORS if shutil.which(name) is not None), _EMULATORS[0])


def counting_emulator() -> list[str]:
    """Return the command of an emulator that takes plugins, from a tree in the cache.

    Debian's newer ones are linked statically and take none.
    """
    root = _kept(_COUNTING_SUITE, ("qemu-user",), "amd64")
    libraries = ":".join(str(root / folder / "x86_64-linux-gnu") for folder in ("lib", "usr/lib"))
    return [str(root / "lib64/ld-linux-x86-64.so.2"), "--library-path", libraries, str(root / "usr/bin/qemu-aarch64")]


def lacking(*tools: str) -> str | None:
    """Return the reason why nothing can be emulated here; None if it can.

    bookworm's qemu-user 7.2 dies of a signal in onnxruntime.
    """
    for tool in (emulator_name(), *_TOOLS, *tools):
        if shutil.which(tool) is None:
            return f"{tool} is not installed: make image-deps"
    said = subprocess.run([emulator_name(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)", said)
    if found is not None and int(found[1]) >= _QEMU_MAJOR:
        return None
    return f"{emulator_name()} is older than {_QEMU_MAJOR}.0: make image-deps"


def package_tree(folder: Path) -> Tree:
    """Unpack Debian and the package, with the appliance as it was committed, into an empty folder."""
    installed = next(iter(sorted(cache().glob("raspberry-pi-installed-*.tar"))), None)
    if installed is not None:
        run("tar", "--extract", "--file", installed, "--directory", folder, *_PARTS, _LINKER)
        (folder / "lib").symlink_to("usr/lib")
    else:
        _extract(folder, "trixie", _MINIMAL)
        with tempfile.TemporaryDirectory() as scratch:
            run("dpkg-deb", "--extract", build_deb("arm64", PYTHON, Path(scratch)), folder)
    return _with_python(folder, folder / f"opt/lantern/lib/python{PYTHON}/site-packages")


def working_tree() -> Tree:
    """Return a tree whose Python runs this checkout with the device's libraries; it is kept in the cache."""
    wheels = site_packages("arm64", PYTHON)
    return _with_python(_kept("trixie", _MINIMAL), ROOT, wheels)


def llama_tree() -> Tree:
    """Return a tree with Debian's llama.cpp and its headers; it is kept in the cache."""
    return Tree(_kept(_LLAMA_SUITE, _LLAMA_PACKAGES))


def llama_tree_of_this_machine() -> Path:
    """Return a folder with Debian's llama.cpp for x86-64, to run without an emulator; it is kept in the cache."""
    return _kept(_LLAMA_SUITE, _LLAMA_PACKAGES, "amd64")


def _with_python(root: Path, *paths: Path) -> Tree:
    variables = {"PYTHONHOME": str(root / "usr"), "PYTHONPATH": ":".join(map(str, paths))}
    return Tree(root, {**variables, "PYTHONDONTWRITEBYTECODE": "1"})


def _kept(suite: str, packages: tuple[str, ...], architecture: str = "arm64") -> Path:
    folder = cache() / f"{architecture}-{suite}"
    if not folder.exists():
        say(f"Unpacking Debian {suite} for {architecture}: {folder}")
        with tempfile.TemporaryDirectory(dir=cache(), ignore_cleanup_errors=True) as staged:
            made = Path(staged) / "tree"
            made.mkdir()
            _extract(made, suite, packages, architecture)
            with contextlib.suppress(OSError):  # another process was sooner
                made.rename(folder)
    return folder


def _extract(folder: Path, suite: str, packages: tuple[str, ...], architecture: str = "arm64") -> None:
    sources = trixie_sources()
    if suite != "trixie":
        sources = [sources[0].replace(" trixie ", f" {suite} ")]
    options = ["--variant=extract", f"--architectures={architecture}", f"--include={','.join(packages)}"]
    options += ['--aptopt=APT::Install-Recommends "false"']
    options += ['--aptopt=Acquire::Check-Valid-Until "false"']  # a mirror may lag behind; signatures are verified
    run("mmdebstrap", *options, suite, folder, *sources)
    if not (folder / "lib").exists():
        (folder / "lib").symlink_to("usr/lib")
