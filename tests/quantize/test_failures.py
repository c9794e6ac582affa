"""A full disk or an interrupt, whenever it comes: one sentence, nothing half-written, and the next run resumes."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.errors import QuantizeError
from appliance.home import Home
from quantize.__main__ import main
from tests.quantize.tiny import write_decoder
from tests.quantize.tiny_gguf import with_unknown_type, write_gguf

_INTERRUPTED = 130


_STAGES = (
    "checkpoint",
    "export",
    "fuse",
    "calibrate",
    "smooth",
    "fit",
    "sensitivity",
    "search",
    "weights",
    "kv-scales",
    "evaluate",
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("llama") / "tiny-llama", "llama")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Path, Path]:
    """A home with every stage of a searched build done, its GGUF file and its recipe."""
    root = tmp_path_factory.mktemp("whole")
    gguf = write_gguf(root / "tiny.gguf")
    recipe = root / "tiny.toml"
    recipe.write_text(
        f'name = "tiny"\nlicense = "MIT"\n[source]\nuri = "{gguf}"\n[weights]\nscheme = "auto"\nsmoothing = 0.5\n'
        "[calibration]\nnum_windows = 3\nwindow_tokens = 32\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANTERN_HOME", str(root / "home"))
        assert main(["build", "--recipe", str(recipe), "--out", str(root / "out")]) == 0
    return Home(root / "home"), recipe, root / "out" / "tiny"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("LANTERN_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


@pytest.fixture
def all_but(whole: tuple[Home, Path, Path], home: Home) -> Callable[[str], None]:
    """Makes a home where every stage is done but the named one."""

    def prepare(stage: str) -> None:
        shutil.copytree(whole[0].root, home.root)
        for folder in (home.cache / "quantize").glob(f"{stage}-*"):
            shutil.rmtree(folder)

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
    build = ["build", "--recipe", str(whole[1]), "--out", str(tmp_path / "out")]
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
    build = ["build", "--recipe", str(whole[1]), "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", InterruptingStream(f"{stage} ..."))
        code = main(build)
    assert code == _INTERRUPTED
    assert nothing_half_written(home, tmp_path / "out")
    assert main(build) == 0
    assert f"{stage}: " in capsys.readouterr().err
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


@pytest.mark.parametrize("after_s", [0.2, 0.8, 1.6])
def test_an_interrupt_at_any_moment(
    llama: Path, home: Home, tmp_path: Path, after_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    code = 0
    with contextlib.suppress(KeyboardInterrupt), interrupt_after(after_s):  # it may come after the end
        code = main(command(llama, tmp_path / "out"))
    if code != 0:
        assert code == _INTERRUPTED
        assert "interrupted; the next run resumes" in capsys.readouterr().err
        assert nothing_half_written(home, tmp_path / "out")
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


def command(checkpoint: Path, out: Path) -> list[str]:
    return ["build", str(checkpoint), "--out", str(out), "--name", "tiny-llama"]


class InterruptingStream(io.StringIO):
    """Ctrl-C at the moment that a text is shown, once."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text: str | None = text

    def write(self, text: str, /) -> int:
        if self._text is not None and self._text in text:
            self._text = None
            os.kill(os.getpid(), signal.SIGINT)
        return super().write(text)


def same_bytes(folder: Path, other: Path) -> bool:
    """Whether both bundles say and hold the same; what differs is whose key signed them."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "manifest.sig")
    assert names == sorted(path.name for path in other.iterdir() if path.name != "manifest.sig")
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in names)


def nothing_half_written(home: Home, out: Path) -> bool:
    return not list((home.cache / "quantize").glob(".partial-*")) and not (out.exists() and list(out.iterdir()))


@contextlib.contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Writing beyond fails as on a full disk; Python ignores the signal that comes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def interrupt_after(seconds: float) -> Iterator[None]:
    """Ctrl-C from a timer."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
