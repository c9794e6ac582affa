"""Work in another thread, since the browser's driver runs a loop in the test's own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def aside(work: Callable[[], T]) -> T:
    """Do what touches the disk in another thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()
