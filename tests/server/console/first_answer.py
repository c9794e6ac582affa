"""Waiting for the server of another project, which a test has started."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx2


def first_answer(
    ask: Callable[[], httpx2.Response], process: subprocess.Popen[bytes], log: Path, *, within_s: int
) -> httpx2.Response:
    """Ask once a second, and return the first answer with status 200.

    Raises:
        AssertionError: the process ended, or the time did; it tells the end of the log.
    """
    for _ in range(within_s):
        try:
            process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            pass
        else:
            break
        try:
            answer = ask()
        except httpx2.TransportError:
            continue
        if answer.status_code == 200:
            return answer
    raise AssertionError(log.read_text("utf-8")[-4000:])
