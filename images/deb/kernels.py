"""The library of Lantern's kernels for the package, built by a compiler for the device's processor."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from images.workplace import cache, run, say

FILES = ("liblantern_kernels.so", "liblantern_kernels.so.sha256")
_COMPILERS = {"arm64": "aarch64-linux-gnu-g++", "amd64": "x86_64-linux-gnu-g++"}


def add_kernels(source: Path, architecture: str, target: Path) -> bool:
    """Build the library from the tree `source` into the folder `target`; False if this machine cannot.

    Without the library the device's stock operators serve.

    Raises:
        SystemExit: the compiler refuses the sources.
    """
    compiler = _COMPILERS[architecture]
    kernels = source / "appliance/engine/kernels"
    if shutil.which(compiler) is None:
        say(f"No {compiler}: the package has no kernels of Lantern's own (make image-deps installs it)")
        return False
    header = cache() / "kernels"
    try:
        run(kernels / "find_header.sh", header)
    except SystemExit as err:
        say(f"No onnxruntime_c_api.h: the package has no kernels of Lantern's own: {err}")
        return False
    include = (header / "header").read_text("utf-8").strip()
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="lantern-kernels-") as build:
        variables = (f"KERNEL_CXX={compiler}", f"KERNEL_BUILD={build}")
        run("make", "-s", "-f", "kernels.mk", "kernels", *variables, cwd=source, ORT_INCLUDE=include)
        for name in FILES:
            shutil.copy(Path(build) / name, target / name)
    return True
