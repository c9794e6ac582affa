"""A full disk or an interrupt at any moment: one sentence, nothing half-written, and the next run resumes."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from appliance.errors import QuantizeError
from appliance.home import Home
from quantize.build import open_run
from quantize.cli import main
from quantize.kinds.decoder import DECODER
from quantize.pipeline import open_stage_cache
from quantize.progress import StageProgress
from quantize.recipe import Recipe
from tests.quantize.tiny import FORCED, write_decoder
from tests.quantize.tiny_gguf import with_unknown_type, write_gguf

pytestmark = pytest.mark.slow

_INTERRUPTED = 130
_INSIDE_S = 0.02  # after a stage's first line; the tiny model's stages take no longer

_STAGES = (
    "checkpoint",
    "export",
    "fuse",
    "witness",
    "calibrate",
    "smooth",
    "fit",
    "sensitivity",
    "search",
    "weights",
    "evaluate",
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("llama") / "tiny-llama", "llama")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Path, Path]:
    """Build a searched recipe of a GGUF file: the home with every stage done, the recipe, and the bundle."""
    root = tmp_path_factory.mktemp("whole")
    gguf = write_gguf(root / "tiny.gguf")
    recipe = root / "tiny.toml"
    recipe.write_text(
        f'name = "tiny"\nlicense = "MIT"\n[source]\nuri = "{gguf}"\n[weights]\nscheme = "auto"\nsmoothing = 0.5\n'
        "[calibration]\nnum_windows = 3\nwindow_tokens = 32\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANTERN_HOME", str(root / "home"))
        assert main(["build", "--recipe", str(recipe), "--out", str(root / "out"), "--force"]) == 0
    keep_the_export(Recipe.load(recipe), Home(root / "home"))
    return Home(root / "home"), recipe, root / "out" / "tiny"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("LANTERN_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system in memory that is small enough to be filled."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", f"lantern-test-{os.getpid()}", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs to mount a tmpfs, as root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def all_but(whole: tuple[Home, Path, Path], home: Home) -> Callable[[str], None]:
    """Return a function that makes a home in which every stage is done but the named one."""

    def prepare(stage: str) -> None:
        shutil.copytree(whole[0].root, home.root)
        lacking(stage, home)

    return prepare


@pytest.mark.parametrize("stage", [*_STAGES, "package"])
def test_a_disk_that_is_full_in_any_stage(
    whole: tuple[Home, Path, Path],
    home: Home,
    all_but: Callable[[str], None],
    tmp_path: Path,
    stage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    all_but(stage)
    build = ["build", "--recipe", str(whole[1]), "--out", str(tmp_path / "out"), "--force"]
    with files_of_at_most(50_000 if stage == "export" else 64):
        assert main(build) == QuantizeError.exit_code
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.endswith("...")][-1] == f"{stage} ..."
    assert len([line for line in said if line.startswith("lantern-quantize: ")]) == 1, said
    assert nothing_half_written(home, tmp_path / "out")
    assert main(build) == 0
    assert same_bytes(tmp_path / "out" / "tiny", whole[2])


@pytest.mark.parametrize("stage", [*_STAGES, "package"])
def test_an_interrupt_in_any_stage(
    whole: tuple[Home, Path, Path],
    home: Home,
    all_but: Callable[[str], None],
    tmp_path: Path,
    stage: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    all_but(stage)
    build = ["build", "--recipe", str(whole[1]), "--out", str(tmp_path / "out"), "--force"]
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", InterruptingStream(f"{stage} ..."))
        code = main(build)
    assert code == _INTERRUPTED
    assert nothing_half_written(home, tmp_path / "out")
    assert main(build) == 0
    assert f"{stage}: " in capsys.readouterr().err
    assert same_bytes(tmp_path / "out" / "tiny", whole[2])


@pytest.mark.parametrize("stage", [*_STAGES, "package"])
def test_an_interrupt_within_any_stage(
    whole: tuple[Home, Path, Path], home: Home, all_but: Callable[[str], None], tmp_path: Path, stage: str
) -> None:
    all_but(stage)
    build = ["build", "--recipe", str(whole[1]), "--out", str(tmp_path / "out"), "--force"]
    code, said = interrupted(build, _INSIDE_S, line=f"{stage} ...")
    assert "Traceback" not in said
    if "interrupted; the next run resumes" in said:
        # Python ends itself by the signal if it fell into exec(), as of dataclasses; shells say 130 then too.
        assert code in (_INTERRUPTED, -signal.SIGINT)
        if not (tmp_path / "out" / "tiny").is_dir():  # else it came after the last rename
            assert nothing_half_written(home, tmp_path / "out")
    else:  # it came after the end
        assert (tmp_path / "out" / "tiny").is_dir(), (code, said)
    if (tmp_path / "out" / "tiny").is_dir():
        assert same_bytes(tmp_path / "out" / "tiny", whole[2])
    assert main(build) == 0
    assert same_bytes(tmp_path / "out" / "tiny", whole[2])


@pytest.mark.parametrize("stage", ["checkpoint", "export", "fit", "search", "weights", "package"])
def test_no_space_left_on_a_real_disk(
    whole: tuple[Home, Path, Path],
    small_disk: Path,
    tmp_path: Path,
    stage: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(whole[0].root, small_disk / "home")
    home = Home(small_disk / "home")
    monkeypatch.setenv("LANTERN_HOME", str(home.root))
    lacking(stage, home)
    build = ["build", "--recipe", str(whole[1]), "--out", str(small_disk / "out"), "--force"]
    fill(small_disk / "filler")
    assert main(build) == QuantizeError.exit_code
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lantern-quantize: ")]
    assert len(said) == 1, said
    assert nothing_half_written(home, small_disk / "out")
    (small_disk / "filler").unlink()
    assert main(build) == 0
    assert same_bytes(small_disk / "out" / "tiny", whole[2])


def test_a_second_build_in_one_home_is_one_sentence(
    whole: tuple[Home, Path, Path],
    home: Home,
    all_but: Callable[[str], None],
    progress: StageProgress,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    all_but("weights")
    build = ["build", "--recipe", str(whole[1]), "--out", str(tmp_path / "out"), "--force"]
    with open_stage_cache(home.cache / "quantize", progress):
        assert main(build) == QuantizeError.exit_code
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "another lantern-quantize works in" in said[0]
    assert not (tmp_path / "out").exists()
    assert main(build) == 0
    assert same_bytes(tmp_path / "out" / "tiny", whole[2])


def test_a_gguf_file_with_a_type_that_nobody_knows_is_one_sentence(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gguf = with_unknown_type(write_gguf(tmp_path / "tiny.gguf"))
    assert main(["build", str(gguf), "--out", str(tmp_path / "out")]) == QuantizeError.exit_code
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lantern-quantize: ")]
    assert len(said) == 1
    assert "tiny.gguf cannot be read" in said[0]
    assert "250" in said[0]
    assert nothing_half_written(home, tmp_path / "out")


@pytest.mark.parametrize("after_s", [0.0, 0.2, 0.8, 1.6])
def test_an_interrupt_at_any_moment(llama: Path, home: Home, tmp_path: Path, after_s: float) -> None:
    code, said = interrupted(command(llama, tmp_path / "out"), after_s)
    if "interrupted; the next run resumes" in said:
        assert code == _INTERRUPTED
        assert nothing_half_written(home, tmp_path / "out")
    else:  # it came after the end
        assert (tmp_path / "out" / "tiny-llama").is_dir()
    assert main(command(llama, tmp_path / "out")) == 0


def test_a_truncated_checkpoint_is_refused_before_any_stage(
    llama: Path, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(llama, copy)
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert main(command(copy, tmp_path / "out")) == 5
    assert (
        capsys.readouterr().err.strip().endswith("model.safetensors is truncated or damaged; copy the checkpoint again")
    )
    assert nothing_half_written(home, tmp_path / "out")


def keep_the_export(recipe: Recipe, home: Home) -> None:
    """Run the stage again that a build does not keep, so that the stage that reads it can run alone."""
    with StageProgress(Console(file=io.StringIO())) as progress, open_run(recipe, home, progress, FORCED) as run:
        run.stages.run(DECODER.stages(recipe)[0], run.given)


def lacking(stage: str, home: Home) -> None:
    """Remove one stage, and what is read instead of it."""
    gone = {"export": ("export", "fuse"), "fuse": ("fuse",)}  # only the fusion reads the export
    for name in gone.get(stage, (stage, "export")):
        for folder in (home.cache / "quantize").glob(f"{name}-*"):
            shutil.rmtree(folder)


def command(checkpoint: Path, out: Path) -> list[str]:
    return ["build", str(checkpoint), "--out", str(out), "--name", "tiny-llama", "--force"]


class InterruptingStream(io.StringIO):
    """A stream that gets Ctrl-C at the moment that a text is shown, once."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text: str | None = text

    def write(self, text: str, /) -> int:
        if self._text is not None and self._text in text:
            self._text = None
            os.kill(os.getpid(), signal.SIGINT)
        return super().write(text)


def same_bytes(folder: Path, other: Path) -> bool:
    """Tell if both bundles are the same but for the signature."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "manifest.sig")
    assert names == sorted(path.name for path in other.iterdir() if path.name != "manifest.sig")
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in names)


def nothing_half_written(home: Home, out: Path) -> bool:
    return not list((home.cache / "quantize").glob(".partial-*")) and not (out.exists() and list(out.iterdir()))


@contextlib.contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Let writing beyond a size fail as on a full disk; Python ignores the signal that comes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill(path: Path) -> None:
    """Write a file until the disk has a page left."""
    free = shutil.disk_usage(path.parent).free
    path.write_bytes(b"\0" * max(0, free - resource.getpagesize()))


def interrupted(arguments: list[str], after_s: float, line: str = "") -> tuple[int, str]:
    """Run a program that gets Ctrl-C some time after a line, the first by default; return its exit code and its stderr.

    In this process the exception may fall into pytest's own code, or into a callback that cannot raise.
    """
    program = [sys.executable, "-m", "quantize", *arguments]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        while said and not said.endswith(f"{line}\n"):
            said += process.stderr.readline()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(after_s)
        process.send_signal(signal.SIGINT)
        said += process.stderr.read()
    return process.returncode, said
