"""Stages resume, and nothing half-written is ever taken for a stage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from appliance.errors import QuantizeError
from quantize.pipeline import open_stages, remove_stages, replace_folder
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


def test_what_was_unused_for_longest_goes_first_and_what_this_run_needs_stays(
    tmp_path: Path, progress: StageProgress
) -> None:
    with open_stages(tmp_path, progress) as stages:
        made = [stages.run("fuse", version=1, inputs=x, work=fill).folder for x in range(4)]
    for age, folder in enumerate(made):
        os.utime(folder, (1_000_000 - age, 1_000_000 - age))  # the last is the oldest
    with open_stages(tmp_path, progress) as stages:
        stages.run("fuse", version=1, inputs=3, work=fill)
        stages.keep_within(250)
    assert [folder.exists() for folder in made] == [True, False, False, True]
    with open_stages(tmp_path, progress) as stages:
        stages.run("fuse", version=1, inputs=0, work=fill)
        stages.keep_within(0)
    assert [folder.exists() for folder in made] == [True, False, False, False]


def test_all_stages_can_be_removed(tmp_path: Path, progress: StageProgress) -> None:
    with open_stages(tmp_path, progress) as stages:
        stages.run("fuse", version=1, inputs=1, work=fill)
        with pytest.raises(QuantizeError, match="another lantern-quantize"):
            remove_stages(tmp_path, progress)
    assert remove_stages(tmp_path, progress) == 100
    assert names(tmp_path) == [".lock"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("fresh", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace_folder(tmp_path / "fresh", tmp_path / "target")
    assert names(tmp_path) == ["target"]
    assert names(tmp_path / "target") == ["fresh"]


def fill(target: Path) -> None:
    (target / "out").write_bytes(bytes(100))


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
