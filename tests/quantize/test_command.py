"""The command reports an error in one sentence, with the error's exit code, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from quantize.cli import main


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANTERN_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["build", "no/such/thing", "--out", "OUT"], 5, "is no source"),
        (["build", "--out", "OUT"], 2, "give a SOURCE"),
        (["build", "--out", "OUT", "--recipe", "absent.toml"], 5, "no recipe"),
        (["build", "a/b", "--out", "OUT", "--name", "Not A Name"], 5, "name in the command line"),
        (["inspect", "absent"], 5, "'absent' is no source"),
        (["pack", "absent"], 3, "'absent' is not installed"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "out") if part == "OUT" else part for part in arguments]) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lantern-quantize: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not (tmp_path / "out").exists()


def test_verbose_speaks_of_stages_and_not_of_torch() -> None:
    program = (
        "import logging; from quantize.cli import main; main(['--verbose', 'recipes'])\n"
        "print([logging.getLogger(name).isEnabledFor(logging.INFO) for name in ('quantize.pipeline', 'torch')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[True, False]"


def test_an_unreachable_hub_is_said_honestly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["build", "someone/something", "--out", str(tmp_path / "out")]) == 5
    assert "the hub is not reachable and someone/something is not in the cache" in capsys.readouterr().err
