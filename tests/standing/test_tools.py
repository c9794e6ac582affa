"""The linters, run as tests, so that one command tells everything."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def run_tool(*command: str) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.tools
def test_ruff_finds_nothing() -> None:
    run_tool(str(BIN / "ruff"), "check", ".")


@pytest.mark.tools
def test_the_code_is_formatted() -> None:
    run_tool(str(BIN / "ruff"), "format", "--check", ".")


@pytest.mark.tools
def test_the_types_hold() -> None:
    run_tool(sys.executable, "-m", "mypy")


@pytest.mark.tools
def test_imports_point_downwards() -> None:
    run_tool(str(BIN / "lint-imports"), "--no-cache")


def test_the_hooks_of_pre_commit_are_sound() -> None:
    run_tool(str(BIN / "pre-commit"), "validate-config", ".pre-commit-config.yaml")


def test_shell_scripts_are_sound() -> None:
    scripts = [ROOT / ".ci" / "run", *ROOT.glob("images/**/*.sh"), *ROOT.glob("systemd/**/*.sh")]
    run_tool(str(BIN / "shellcheck"), *map(str, scripts))


def test_the_units_are_valid(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    for unit in (ROOT / "systemd").glob("*.service"):
        text = unit.read_text("utf-8").replace("/opt/lantern/bin/lantern", "/bin/true")
        copy = tmp_path / unit.name
        copy.write_text(text, "utf-8")
        run_tool(analyze, "verify", "--man=no", str(copy))
