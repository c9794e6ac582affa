"""The builds' folders, the version that they build, and calls of other programs."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys
from pathlib import Path

import platformdirs

from appliance import __version__

ROOT = Path(__file__).parents[1]
VERSION = __version__


def cache() -> Path:
    """Return the folder of files that can be made again: `$LANTERN_IMAGE_CACHE`, else the user's cache folder."""
    chosen = os.environ.get("LANTERN_IMAGE_CACHE")
    folder = Path(chosen) if chosen else platformdirs.user_cache_path("lantern-images")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def source_date_epoch() -> int:
    """Return the seconds that every time stamp in a build gets: `$SOURCE_DATE_EPOCH`, else the last commit's."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return int(given) if given else commit_epoch(ROOT)


@functools.cache
def commit_epoch(root: Path) -> int:
    """Return the time of the last commit as this process saw it first: one more commit must not change a build."""
    command = ["git", "-C", str(root), "log", "-1", "--format=%ct"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(result.stdout) if result.returncode == 0 else 1_767_225_600  # 2026-01-01, for a source archive


def run(*command: str | Path, cwd: Path | None = None, stdin: str | None = None, **variables: str) -> str:
    """Run a program with an environment of fixed language and time, and return what it printed.

    Raises:
        SystemExit: it failed; its command and its last words are in the message.
    """
    words = [str(word) for word in command]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": str(source_date_epoch()), **variables}
    result = subprocess.run(
        words, cwd=cwd, input=stdin, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    if result.returncode != 0:
        log = cache() / "last-failure.log"
        log.write_text(f"{shlex.join(words)}\n{result.stdout}\n{result.stderr}", "utf-8")
        last = "\n".join((result.stdout + result.stderr).strip().splitlines()[-10:])
        raise SystemExit(f"{last}\n{words[0]} failed with exit code {result.returncode}; all it said is in {log}.")
    return result.stdout


def say(text: str) -> None:
    """Print one line for the person who waits."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
