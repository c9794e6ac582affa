"""Stages resume, and a half-written folder never counts as a stage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from appliance.errors import QuantizeError
from quantize.pipeline import Stage, Step, Work, open_stage_cache, remove_stages, replace_folder, stage, steps_to
from quantize.progress import Progress, StageProgress


def test_an_unchanged_stage_is_skipped_and_a_changed_input_runs_it_again(
    tmp_path: Path, progress: StageProgress
) -> None:
    runs = []

    def work(target: Path, part: object, progress: Progress) -> None:
        runs.append(target)
        (target / "out").write_text(str(len(runs)))

    with open_stage_cache(tmp_path, progress) as stages:
        first = stages.run(fuse(work, {"x": 1}), {})
        again = stages.run(fuse(work, {"x": 1}), {})
        other = stages.run(fuse(work, {"x": 2}), {})
        newer = stages.run(fuse(work, {"x": 1}, version=2), {})
    assert first == again
    assert len(runs) == 3
    assert len({first.key, other.key, newer.key}) == 3
    assert (first.folder / "out").read_text() == "1"


@pytest.mark.parametrize("error", [KeyboardInterrupt, QuantizeError("no")])
def test_a_stage_that_fails_leaves_nothing(
    tmp_path: Path, progress: StageProgress, error: BaseException | type[BaseException]
) -> None:
    def work(target: Path, part: object, progress: Progress) -> None:
        (target / "half").write_text("x")
        raise error

    with pytest.raises((KeyboardInterrupt, QuantizeError)), open_stage_cache(tmp_path, progress) as stages:
        stages.run(fuse(work), {})
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_full_disk_is_one_sentence(tmp_path: Path, progress: StageProgress) -> None:
    def work(target: Path, part: object, progress: Progress) -> None:
        raise OSError(28, "No space left on device")

    with (
        pytest.raises(QuantizeError, match="fuse stopped: No space left"),
        open_stage_cache(tmp_path, progress) as stages,
    ):
        stages.run(fuse(work), {})


def numpy_asks_for_too_much() -> None:
    np.empty(1 << 58, np.uint8)


def torch_asks_for_too_much() -> None:
    import torch

    torch.empty(1 << 58, dtype=torch.uint8)


def onnxruntime_asks_for_too_much() -> None:
    import onnxruntime as ort
    from onnx import TensorProto, helper

    node = helper.make_node("Expand", ["x", "shape"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    shape = helper.make_tensor_value_info("shape", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph([node], "wide", [x, shape], [y]), ir_version=10)
    session = ort.InferenceSession(model.SerializeToString())
    session.run(None, {"x": np.zeros(1, np.float32), "shape": np.array([1 << 56])})


@pytest.mark.parametrize(
    "ask",
    [numpy_asks_for_too_much, torch_asks_for_too_much, onnxruntime_asks_for_too_much],
    ids=lambda ask: ask.__name__,
)
def test_memory_that_is_short_is_one_sentence(ask: Callable[[], None], tmp_path: Path, progress: StageProgress) -> None:
    with (
        pytest.raises(QuantizeError, match=r"^fuse stopped: memory is short; close other programs"),
        open_stage_cache(tmp_path, progress) as stages,
    ):
        stages.run(fuse(lambda *_: ask()), {})
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_an_error_of_ours_stays_what_it_is(tmp_path: Path, progress: StageProgress) -> None:
    def work(target: Path, part: object, progress: Progress) -> None:
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"), open_stage_cache(tmp_path, progress) as stages:
        stages.run(fuse(work), {})


def test_a_killed_stage_leaves_nothing_that_counts_and_the_next_run_does_it(
    tmp_path: Path, progress: StageProgress
) -> None:
    script = f"""
        import os, signal
        from pathlib import Path
        from quantize.pipeline import open_stage_cache, stage
        from quantize.progress import StageProgress

        @stage("fuse", version=1)
        def fuse(target, part, progress):
            (target / "half").write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)

        with open_stage_cache(Path({str(tmp_path)!r}), StageProgress()) as stages:
            stages.run(fuse.step(1), {{}})
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("fuse-*"))
    with open_stage_cache(tmp_path, progress) as stages:
        assert {path.name for path in tmp_path.iterdir()} == {".lock"}
        output = stages.run(fuse(lambda target, *_: (target / "whole").touch()), {})
    assert names(output.folder) == ["whole"]


def test_two_runs_do_not_work_in_one_cache(tmp_path: Path, progress: StageProgress) -> None:
    with (
        open_stage_cache(tmp_path, progress),
        pytest.raises(QuantizeError, match="another lantern-quantize"),
        open_stage_cache(tmp_path, progress),
    ):
        pass


def test_what_was_unused_for_longest_goes_first_and_what_this_run_needs_stays(
    tmp_path: Path, progress: StageProgress
) -> None:
    with open_stage_cache(tmp_path, progress) as stages:
        made = [stages.run(fuse(fill, x), {}).folder for x in range(4)]
    for age, folder in enumerate(made):
        os.utime(folder, (1_000_000 - age, 1_000_000 - age))  # the last is the oldest
    with open_stage_cache(tmp_path, progress) as stages:
        stages.run(fuse(fill, 3), {})
        stages.keep_within(250)
    assert [folder.exists() for folder in made] == [True, False, False, True]
    with open_stage_cache(tmp_path, progress) as stages:
        stages.run(fuse(fill, 0), {})
        stages.keep_within(0)
    assert [folder.exists() for folder in made] == [True, False, False, False]


def test_all_stages_can_be_removed(tmp_path: Path, progress: StageProgress) -> None:
    with open_stage_cache(tmp_path, progress) as stages:
        stages.run(fuse(fill, 1), {})
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


def test_a_stage_is_stale_by_what_it_reads_and_by_nothing_else(tmp_path: Path, progress: StageProgress) -> None:
    def kept(version: int, part: int) -> dict[str, str]:
        steps = [
            Stage("export", version, fill).step(part),
            fuse(copy, source="export"),
            Stage("other", 1, fill).step(),
        ]
        with open_stage_cache(tmp_path, progress) as stages:
            return {name: output.key for name, output in stages.run_all(steps, {}).items()}

    before, newer, wider = kept(1, 0), kept(2, 0), kept(1, 1)
    for after in (newer, wider):
        assert {name for name in before if before[name] != after[name]} == {"export", "fuse"}


def test_a_stage_is_given_its_part_and_the_folders_that_it_names(tmp_path: Path, progress: StageProgress) -> None:
    @stage("join", version=1)
    def join(target: Path, part: str, progress: Progress, *, first: Path, second: Path | None = None) -> None:
        assert second is None
        (target / "out").write_text(part + (first / "out").read_text())

    @stage("write", version=1)
    def write(target: Path, part: str, progress: Progress) -> None:
        (target / "out").write_text(part)

    steps = [write.step("b"), join.step("a", first="write", second=None)]
    with open_stage_cache(tmp_path, progress) as stages:
        assert (stages.run_all(steps, {})["join"].folder / "out").read_text() == "ab"


def test_a_stage_that_a_recipe_does_not_need_is_left_out(tmp_path: Path, progress: StageProgress) -> None:
    steps = [Stage("export", 1, fill).step(), fuse(fill), Stage("search", 1, fill).step(needed=False)]
    with open_stage_cache(tmp_path, progress) as stages:
        assert list(stages.run_all(steps, {})) == ["export", "fuse"]


def test_a_folder_that_is_not_kept_goes_after_its_last_reader_and_comes_back_only_for_one(
    tmp_path: Path, progress: StageProgress
) -> None:
    runs: list[str] = []

    def noted(target: Path, part: object, progress: Progress, **inputs: Path) -> None:
        runs.append(str(part))
        assert all((folder / "out").read_text() for folder in inputs.values())
        (target / "out").write_text("x")

    def steps(last: int) -> list[Step]:
        return [
            Stage("export", 1, noted).step("export", kept=False),
            Stage("fuse", 1, noted).step("fuse", source="export"),
            Stage("check", last, noted).step("check", source="export"),
            Stage("end", 1, noted).step("end", source="fuse"),
        ]

    with open_stage_cache(tmp_path, progress) as stages:
        assert [step.name for step in stages.missing(steps(1), {})] == ["export", "fuse", "check", "end"]
        stages.run_all(steps(1), {})
        assert not list(tmp_path.glob("export-*"))
        assert stages.missing(steps(1), {}) == []
        stages.run_all(steps(1), {})
        assert runs == ["export", "fuse", "check", "end"]
        assert [step.name for step in stages.missing(steps(2), {})] == ["export", "check"]
        stages.run_all(steps(2), {})
    assert runs[4:] == ["export", "check"]
    assert not list(tmp_path.glob("export-*"))


def test_a_folder_that_is_not_kept_waits_for_a_reader_that_failed(tmp_path: Path, progress: StageProgress) -> None:
    fail = [True]

    def reader(target: Path, part: object, progress: Progress, *, source: Path) -> None:
        if fail.pop():
            raise QuantizeError("no")

    steps = [Stage("export", 1, fill).step(kept=False), fuse(reader, source="export")]
    with open_stage_cache(tmp_path, progress) as stages, pytest.raises(QuantizeError, match="no"):
        stages.run_all(steps, {})
    (export,) = tmp_path.glob("export-*")
    fail[:] = [False]
    with open_stage_cache(tmp_path, progress) as stages:
        assert stages.missing(steps, {}) == steps[1:]
        stages.run_all(steps, {})
    assert not export.exists()


def test_only_the_steps_that_lead_to_one_are_selected() -> None:
    steps = [
        Stage("export", 1, fill).step(x="checkpoint"),
        fuse(copy, source="export"),
        Stage("other", 1, copy).step(source="export"),
        Stage("end", 1, copy).step(source="fuse"),
    ]
    assert [step.name for step in steps_to(steps, "end")] == ["export", "fuse", "end"]


def fuse(work: Work, part: object = 1, *, version: int = 1, source: str | None = None) -> Step:
    return Stage("fuse", version, work).step(part, source=source)


def fill(target: Path, part: object, progress: Progress) -> None:
    (target / "out").write_bytes(bytes(100))


def copy(target: Path, part: object, progress: Progress, *, source: Path) -> None:
    (target / "out").write_bytes((source / "out").read_bytes())


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
