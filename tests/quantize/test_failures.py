"""A full disk or an interrupt, whenever it comes: one sentence, nothing half-written, and the next run resumes."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.bundle import TrustedKeys, open_bundle
from appliance.home import Home
from quantize.__main__ import main
from tests.quantize.tiny import write_decoder

_INTERRUPTED = 130


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("llama") / "tiny-llama", "llama")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("LANTERN_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


@pytest.mark.parametrize("stage", ["export", "fuse", "weights", "package"])
def test_a_disk_that_is_full_in_one_stage(
    llama: Path, home: Home, tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    if stage != "export":
        assert main(command(llama, out)) == 0
        shutil.rmtree(out)
        for folder in (home.cache / "quantize").glob(f"{stage}-*"):
            shutil.rmtree(folder)
    capsys.readouterr()
    with files_of_at_most(50_000):
        assert main(command(llama, out)) != 0
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.endswith("...")][-1] == f"{stage} ..."
    assert len([line for line in said if line.startswith("lantern-quantize: ")]) == 1, said
    assert nothing_half_written(home, out)
    assert main(command(llama, out)) == 0
    assert open_bundle(out / "tiny-llama", TrustedKeys.load(home.trusted_keys)).name == "tiny-llama"


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
