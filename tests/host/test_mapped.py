"""The resident part of a mapped file."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from appliance.host.mapped import forget_pages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/smaps is Linux's")

_SIZE = 64 * mmap.PAGESIZE


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[mmap.mmap]:
    """A file that was read through a private mapping."""
    path = tmp_path / "folder with a space" / "weights.bin"
    path.parent.mkdir()
    path.write_bytes(b"weights." * (_SIZE // 8))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as found:
        assert found[:] == b"weights." * (_SIZE // 8)
        yield found


def held(folder: Path) -> int:
    return sum(int(m.rss) for m in psutil.Process().memory_maps(grouped=False) if m.path.startswith(str(folder)))


def test_what_was_read_is_forgotten_and_comes_back(tmp_path: Path, mapped: mmap.mmap) -> None:
    assert held(tmp_path) == _SIZE
    assert forget_pages(tmp_path / "folder with a space") == _SIZE
    assert held(tmp_path) == 0
    assert mapped[:] == b"weights." * (_SIZE // 8)


def test_changed_pages_and_other_folders_are_left_alone(tmp_path: Path, mapped: mmap.mmap) -> None:
    assert forget_pages(tmp_path / "folder") == 0
    mapped[0:7] = b"changed"
    assert forget_pages(tmp_path) == 0
    assert mapped[0:16] == b"changed.weights."
