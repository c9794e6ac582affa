"""The appliance's locked wheels for a device's processor and Python, without running anything of either."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

from images.workplace import ROOT, cache, run, say

_LOCK = ROOT / "appliance" / "requirements.lock"
# glibc 2.39: Ubuntu 24.04, which JetPack 7 is; trixie has a newer one.
_PLATFORMS = {"arm64": "aarch64-manylinux_2_39", "amd64": "x86_64-manylinux_2_39"}


def site_packages(architecture: str, python: str) -> Path:
    """Return a folder with every locked package, their hashes checked; made once for each lock.

    Raises:
        SystemExit: a wheel is not to be had, or has another hash.
    """
    key = hashlib.sha256(_LOCK.read_bytes()).hexdigest()[:16]
    folder = cache() / f"wheels-{architecture}-py{python}-{key}"
    if not folder.exists():
        say(f"Wheels for {architecture} and Python {python}")
        staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=cache()))
        staged.chmod(0o755)
        run(
            Path(sys.executable).with_name("uv"),
            *("pip", "install", "--quiet", "--no-config", "--no-deps", "--require-hashes", "--link-mode=copy"),
            *("--only-binary=:all:", "--no-compile-bytecode", f"--target={staged}"),
            *(f"--python-platform={_PLATFORMS[architecture]}", f"--python-version={python}"),
            *("--requirements", _LOCK),
            UV_CACHE_DIR=str(cache() / "uv"),
        )
        for leftover in ("bin", ".lock"):
            path = staged / leftover
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        try:
            staged.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            shutil.rmtree(staged)  # another build was sooner
    return folder
