"""Markers, the fixtures that give them, and the page that explains both say the same."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.kinds import MARKERS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "tests" / "README.md").read_text("utf-8")
MODULES = {path: path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py")}


def fixtures() -> Iterator[str]:
    """Yield the name of each fixture in the tests."""
    for content in MODULES.values():
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.FunctionDef) and any("fixture" in ast.unparse(d) for d in node.decorator_list):
                yield node.name


def test_every_fixture_that_gives_a_marker_exists() -> None:
    assert set().union(*MARKERS.values()) <= set(fixtures())


def test_every_marker_is_declared_and_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    declared = {text.partition(":")[0] for text in project["tool"]["pytest"]["ini_options"]["markers"]}
    assert set(MARKERS) <= declared
    assert declared == set(re.findall(r"^\| `(\w+)` \|", PAGE.partition("## Switches")[0], re.MULTILINE))
    unselected = re.search(r"^SLOW := (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert unselected is not None
    assert set(unselected[1].split(" or ")) == declared


def test_every_switch_is_explained() -> None:
    read = {
        name
        for content in MODULES.values()
        for name in re.findall(r'environ(?:\.get\(|\[)"(LANTERN_\w+|KILLS)"', content)
    }
    assert len(read) > 5
    assert not {name for name in read if f"| `{name}" not in PAGE}


def test_one_worker_of_a_parallel_run_takes_a_module(tmp_path: Path) -> None:
    conftest = "from tests.conftest import pytest_xdist_make_scheduler\n"
    module = (
        "import os, pathlib, time, pytest\n"
        "@pytest.mark.parametrize('i', range(6))\n"
        "def test_it(i):\n"
        "    time.sleep(0.05)\n"
        "    with pathlib.Path(__file__).with_suffix('.txt').open('a') as file:\n"
        "        file.write(os.environ['PYTEST_XDIST_WORKER'] + chr(10))\n"
    )
    (tmp_path / "conftest.py").write_text(conftest)
    names = [f"test_{index}" for index in range(4)]
    for name in names:
        (tmp_path / f"{name}.py").write_text(module)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    options = re.search(r"^PARALLEL := .* --numprocesses \$\(JOBS\) (.*)$", makefile, re.MULTILINE)
    assert options is not None
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", *options[1].split(), "-c", "/dev/null", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout
    workers = [set((tmp_path / f"{name}.txt").read_text().split()) for name in names]
    assert all(len(taken) == 1 for taken in workers)
    assert len(set.union(*workers)) == 2
