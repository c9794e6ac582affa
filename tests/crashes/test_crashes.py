"""Every state in which a power cut may leave the files of a device or a workstation is opened by the real code.

At each instant of a recorded run, each state (disk.py) shows what was there before the step that was cut, or after it;
what a finished step wrote is always there. `make crashes` goes further than the suite: more steps, and every state.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crashes.disk import Disk, Tree, digest, write_tree
from tests.crashes.recording import Mark, Operation, record
from tests.crashes.scenarios import SCENARIOS

_NUM_STEPS = int(os.environ.get("LANTERN_CRASH_STEPS", "16"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace, which records system calls, is not installed"),
]


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_power_cut_at_any_instant_leaves_the_old_or_the_new(name: str, tmp_path: Path) -> None:
    root, views_file = tmp_path / "root", tmp_path / "views.json"
    root.mkdir()
    seed = random.SystemRandom().randrange(1 << 30)
    arguments = [name, str(root), str(views_file), str(_NUM_STEPS), str(seed)]
    command = [sys.executable, "-m", "tests.crashes.scenarios", *arguments]
    operations = record(command, root, tmp_path / "strace.log")
    views = json.loads(views_file.read_text("utf-8"))
    marks = [operation.name for operation in operations if isinstance(operation, Mark)]
    num_states = 0
    scenario = SCENARIOS[name]
    for done, operation, tree in states(operations, random.Random(seed)):
        num_states += 1
        folder = tmp_path / "state"
        write_tree(tree, folder)
        where = f"{name}, seed {seed}: cut after step {done} before {operation}"
        try:
            view = json.loads(json.dumps(scenario.view(folder, tmp_path / "material")))
        except Exception as err:
            raise AssertionError(f"{where}: cannot be opened; files: {sorted(tree)}") from err
        settled = max((i for i in range(done + 1) if i == 0 or marks[i - 1] not in scenario.unsettled), default=0)
        assert view in views[settled : done + 2], f"{where}; files: {sorted(tree)}"
        shutil.rmtree(folder)
    sys.stdout.write(f"{name}: {_NUM_STEPS} steps, {len(operations)} operations, {num_states} states, none broken\n")
    assert num_states > 2 * _NUM_STEPS


def states(operations: list[Operation], draw: random.Random) -> Iterator[tuple[int, Operation, Tree]]:
    """Return every state once for each step, with the number of finished steps and the operation that did not begin."""
    disk, seen, done = Disk(), set[tuple[int, bytes]](), 0
    for operation in operations:
        if isinstance(operation, Mark):
            done += 1
        for tree in disk.states(draw):
            key = (done, digest(tree))
            if key not in seen:
                seen.add(key)
                yield done, operation, tree
        disk.do(operation)
