"""Pages of mapped files that a process need not hold: Linux counts them as its own until somebody else needs them."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path

_DONTNEED = 4  # of madvise(2)
_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) .{4} [0-9a-f]+ [0-9a-f:]+ \d+ +(/.*)")


def forget_pages(folder: Path) -> int:
    """Unmap what this process has read of the files in a folder: what is needed again comes from the page cache.

    Loading a model reads what running it does not. Mappings that hold a changed page are left alone, and so are other
    systems than Linux.

    Returns:
        Bytes that this process holds less.
    """
    inside = f"{folder.resolve()}{os.sep}"
    total = 0
    for start, end, path, held, changed in _mappings():
        if path.startswith(inside) and held and not changed:
            size = ctypes.c_size_t(end - start)
            if ctypes.CDLL(None).madvise(ctypes.c_void_p(start), size, _DONTNEED) == 0:
                total += held
    return total


def _mappings() -> Iterator[tuple[int, int, str, int, int]]:
    """Start, end, file, bytes in memory and bytes of changed pages of each mapping of a file."""
    try:
        lines = Path("/proc/self/smaps").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return
    found: re.Match[str] | None = None
    held = 0
    for line in lines:
        if "-" in line.split(" ", 1)[0]:
            found, held = _HEADER.match(line), 0
        elif found is None:
            continue
        elif line.startswith("Rss:"):
            held = _bytes(line)
        elif line.startswith("Anonymous:"):
            yield int(found[1], 16), int(found[2], 16), found[3], held, _bytes(line)


def _bytes(line: str) -> int:
    return int(line.split()[1]) * 1024
