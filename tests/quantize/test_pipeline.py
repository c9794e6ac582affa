"""Stages resume, and nothing half-written is ever taken for a stage."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from appliance.errors import QuantizeError
from quantize.pipeline import open_stages, replace_folder
from quantize.progress import StageProgress


def test_an_unchanged_stage_is_skipped_and_a_changed_input_runs_it_again(
    tmp_path: Path, progress: StageProgress
) -> None:
    runs = []

    def work(target: Path) -> None:
        runs.append(target)
        (target / "out").write_text(str(len(runs)))

    with open_stages(tmp_path, progress) as stages:
        first = stages.run("fuse", version=1, inputs={"x": 1}, work=work)
        again = stages.run("fuse", version=1, inputs={"x": 1}, work=work)
        other = stages.run("fuse", version=1, inputs={"x": 2}, work=work)
        newer = stages.run("fuse", version=2, inputs={"x": 1}, work=work)
    assert first == again
    assert len(runs) == 3
    assert len({first.key, other.key, newer.key}) == 3
    assert (first.folder / "out").read_text() == "1"


@pytest.mark.parametrize("error", [KeyboardInterrupt, QuantizeError("no")])
def test_a_stage_that_fails_leaves_nothing(
    tmp_path: Path, progress: StageProgress, error: BaseException | type[BaseException]
) -> None:
    def work(target: Path) -> None:
        (target / "half").write_text("x")
        raise error

    with pytest.raises((KeyboardInterrupt, QuantizeError)), open_stages(tmp_path, progress) as stages:
        stages.run("fuse", version=1, inputs=1, work=work)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_full_disk_is_one_sentence(tmp_path: Path, progress: StageProgress) -> None:
    def work(target: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(QuantizeError, match="fuse stopped: No space left"), open_stages(tmp_path, progress) as stages:
        stages.run("fuse", version=1, inputs=1, work=work)


def test_a_killed_stage_leaves_nothing_that_counts_and_the_next_run_does_it(
    tmp_path: Path, progress: StageProgress
) -> None:
    script = f"""
        import os, signal
        from pathlib import Path
        from quantize.pipeline import open_stages
        from quantize.progress import StageProgress

        def work(target):
            (target / "half").write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)

        with open_stages(Path({str(tmp_path)!r}), StageProgress()) as stages:
            stages.run("fuse", version=1, inputs=1, work=work)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("fuse-*"))
    with open_stages(tmp_path, progress) as stages:
        assert {path.name for path in tmp_path.iterdir()} == {".lock"}
        output = stages.run("fuse", version=1, inputs=1, work=lambda target: (target / "whole").touch())
    assert names(output.folder) == ["whole"]


def test_two_runs_do_not_work_in_one_cache(tmp_path: Path, progress: StageProgress) -> None:
    with (
        open_stages(tmp_path, progress),
        pytest.raises(QuantizeError, match="another lantern-quantize"),
        open_stages(tmp_path, progress),
    ):
        pass


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("fresh", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace_folder(tmp_path / "fresh", tmp_path / "target")
    assert names(tmp_path) == ["target"]
    assert names(tmp_path / "target") == ["fresh"]


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
