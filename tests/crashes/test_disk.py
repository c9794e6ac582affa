"""The disk's model and its recording, on programs whose states are known."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.crashes.disk import Disk, Tree
from tests.crashes.recording import Link, Make, Mark, Operation, Remove, Rename, Sync, Truncate, Write, record

_PROGRAM = """
import contextlib, os, shutil, sys
f, a, b, c, d, l = (os.path.join(sys.argv[1], name) for name in ("f", "f/a", "b", "c", "d", "l"))
os.mkdir(f)
with open(a, "wb") as file:
    file.write(b"text"); file.flush(); os.fsync(file.fileno()); file.truncate(2)
with open(a, "ab") as file:
    file.write(b"end")
shutil.copyfile(a, b)
os.symlink("b", l); os.link(b, c); os.replace(b, d); os.unlink(c)
open(c, "wb").close(); os.unlink(c)
fd = os.open(f, os.O_RDONLY); os.fsync(fd); os.close(fd)
with contextlib.suppress(FileNotFoundError):
    open("/lantern-step/one")
with open(sys.argv[2], "w") as file:
    file.write("not ours")
"""


def states_after(*operations: Operation) -> list[dict[str, bytes | str | None]]:
    disk = Disk()
    for operation in operations:
        disk.do(operation)
    found: list[Tree] = list(disk.states(random.Random(0)))
    return [dict(tree) for tree in found]


def new_file(path: str, data: bytes) -> Sequence[Operation]:
    return Make(path, "file"), Write(path, 0, data)


def test_nothing_is_certain_of_a_file_that_was_not_synced() -> None:
    states = states_after(*new_file("a", b"text"), Sync(""))
    assert {state["a"] for state in states} == {b"", b"t", b"te", b"tex", b"text", bytes(4)}
    assert {} in states_after(*new_file("a", b"text"), Sync("a"))


def test_a_file_is_certain_once_it_and_its_folder_are_synced() -> None:
    states = states_after(*new_file("a", b"text"), Sync("a"), Sync(""))
    assert all(state == {"a": b"text"} for state in states)


def test_a_synced_file_is_lost_with_a_folder_that_was_not() -> None:
    states = states_after(Make("f", "folder"), *new_file("f/a", b"text"), Sync("f/a"), Sync("f"))
    assert {} in states
    assert {"f": None, "f/a": b"text"} in states


def test_a_rename_before_the_sync_of_its_bytes_may_leave_an_empty_file() -> None:
    old = (*new_file("a", b"old"), Sync("a"), Sync(""))
    careless = states_after(*old, *new_file("b", b"new"), Rename("b", "a"), Sync(""))
    assert {"a": b""} in careless
    careful = states_after(*old, *new_file("b", b"new"), Sync("b"), Rename("b", "a"))
    assert {state["a"] for state in careful} == {b"old", b"new"}
    assert {"a": b"new"} in careful


def test_a_rename_over_two_folders_is_in_both_or_in_neither() -> None:
    folders = (Make("f", "folder"), Make("g", "folder"), *new_file("f/a", b"x"), Sync("f/a"), Sync("f"), Sync(""))
    for state in states_after(*folders, Rename("f/a", "g/a")):
        assert ("f/a" in state) != ("g/a" in state)
    assert all("g/a" in state for state in states_after(*folders, Rename("f/a", "g/a"), Sync("f")))


def test_other_changes_of_names_may_be_late() -> None:
    whole = (*new_file("a", b"x"), Sync("a"), Make("l", "link", "a"), Sync(""))
    found = states_after(*whole, Link("a", "b"), Remove("l"))
    assert {"a": b"x", "l": "a"} in found
    assert {"a": b"x", "l": "a", "b": b"x"} in found
    assert {"a": b"x", "b": b"x"} in found
    assert {"a": b"x"} not in found


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace, which records the system calls, is not installed")
def test_a_program_is_recorded_as_what_it_did(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    command = [sys.executable, "-I", "-c", _PROGRAM, str(root), str(tmp_path / "elsewhere")]
    assert record(command, root, tmp_path / "log") == [
        Make("f", "folder"),
        *new_file("f/a", b"text"),
        Sync("f/a"),
        Truncate("f/a", 2),
        Write("f/a", 2, b"end"),
        *new_file("b", b"teend"),
        Make("l", "link", "b"),
        Link("b", "c"),
        Rename("b", "d"),
        Remove("c"),
        Make("c", "file"),
        Remove("c"),
        Sync("f"),
        Mark("one"),
    ]
