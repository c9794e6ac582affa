"""Lantern's kernels in the engine: the choice, and what serves where they cannot be used."""

from __future__ import annotations

import gc
import hashlib
import shutil
import subprocess
import tarfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.bundle import Bundle, BundleStore, DecoderSpec, TrustedKeys
from appliance.config import Config
from appliance.diagnosis.finding import Level
from appliance.diagnosis.kernels import check_kernels
from appliance.engine.kernels import KernelLibrary
from appliance.engine.runtime import kernel_trial
from appliance.engine.runtime import prepacked as making
from appliance.engine.runtime.kernel_choice import KernelChoice, choose
from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.prepacked import FormBytes, form_bytes, prepacked, recorded_choice
from appliance.engine.runtime.product import int4_rows_are_equal
from appliance.engine.sampler import log_softmax
from appliance.engine.types import StepPlan, StepVariant
from appliance.home import Home
from appliance.models import EngineSettings
from appliance.models.loading import _runner
from tests.engine.kernels.building import need

_GOLDEN = Path(__file__).parents[2] / "golden" / "0.1.0.tar.xz"
_TOKENS = np.random.default_rng(2).integers(3, 300, 90)


@dataclass
class Device:
    """A device of 0.1.0 with a decoder, and a library of kernels."""

    home: Home
    bundle: Bundle
    library: KernelLibrary

    @property
    def spec(self) -> DecoderSpec:
        spec = self.bundle.manifest.model
        assert isinstance(spec, DecoderSpec)
        return spec

    @property
    def folder(self) -> Path:
        """The folder of its decoder's forms."""
        return self.home.prepacked / self.bundle.name

    def load(self, library: Path | None = None, **settings: Any) -> ModelFile:
        path = library or self.library.path
        return prepacked(self.bundle, self.home.prepacked, library=path, use_device=False, **settings)

    def runner(self, file: ModelFile) -> OrtModelRunner:
        return OrtModelRunner(file, self.spec, num_slots=3, capacity=128, num_threads=1)

    def choice(self, library: Path | None = None) -> KernelChoice:
        found = recorded_choice(self.bundle, self.home.prepacked, library or self.library.path)
        assert found is not None
        return found

    def choose(self, *, for_answers: bool, for_prompts: bool) -> None:
        """Make the form of the kernels and choose it, whatever the clock says."""
        stock = self.load(use_kernels=False).path.parent
        version = hashlib.sha256(self.library.path.read_bytes()).hexdigest()
        folder = self.folder / making._key(self.bundle.digest, version)
        folder.mkdir()
        measured = kernel_trial.write(self.library, self.bundle.path("model.onnx"), stock, folder)
        replace(measured, for_answers=for_answers, for_prompts=for_prompts).write(folder)

    def findings(self, library: Path | None = None, **engine: Any) -> list[tuple[Level, str]]:
        """Return the level and the text of each finding of the doctor."""
        config = Config.model_validate({"engine": engine})
        found = check_kernels(self.home, config, library or self.library.path)
        assert {finding.subject for finding in found} == {"kernels"}
        assert all(finding.remedy.endswith(".") for finding in found if finding.level is not Level.GOOD)
        return [(finding.level, finding.text) for finding in found]


@pytest.fixture
def device(library: KernelLibrary, tmp_path: Path) -> Device:
    with tarfile.open(_GOLDEN) as archive:
        archive.extractall(tmp_path, filter="data")
    home = Home(tmp_path / "device")
    bundle = BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys)).open("tiny-chat")
    return Device(home, bundle, library)


def run(
    runner: OrtModelRunner, row: int, start: int, tokens: NDArray[np.int64], variant: StepVariant = "answer"
) -> NDArray[np.float32]:
    plan = StepPlan(row, tokens[None], np.array([start], np.int32), np.arange(len(tokens)), variant)
    return runner.run(plan).copy()


def a_library(folder: Path, source: str) -> Path:
    """Compile a library whose hash is right."""
    need("g++")
    path = folder / "liblantern_kernels.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-x", "c++", "-o", path, "-"], input=source, text=True, check=True)
    return signed(path)


def signed(path: Path) -> Path:
    path.with_name(f"{path.name}.sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest(), "ascii")
    return path


def serves_stock(device: Device, file: ModelFile) -> bool:
    """Return True if a model is loaded without the kernels, and computes."""
    logits = run(device.runner(file), 0, 0, _TOKENS)
    return file.kernels is None and bool(np.isfinite(logits).all())


@pytest.mark.slow
def test_the_first_load_measures_and_the_next_ones_read_the_record(device: Device) -> None:
    file = device.load()
    choice = device.choice()
    assert choice.family == device.library.family
    speeds = [s for s in (choice.stock, choice.kernels) if s is not None]
    assert choice == choose(choice.family, *speeds, stock_rows_are_equal=int4_rows_are_equal())
    before = {path: path.stat().st_mtime_ns for path in device.folder.rglob("*")}
    assert device.load() == file
    assert {path: path.stat().st_mtime_ns for path in device.folder.rglob("*")} == before
    assert device.findings()[0] == (Level.GOOD, f"the library computes with {device.library.family}")
    assert device.findings()[1] == (Level.GOOD, f"tiny-chat {choice.describe()}")


@pytest.mark.slow
def test_with_the_kernels_load_and_drafts_change_no_bit(device: Device) -> None:
    device.choose(for_answers=True, for_prompts=True)
    file = device.load()
    assert file.kernels == device.library.path
    runner = device.runner(file)
    whole = run(runner, 0, 0, _TOKENS, "prompt")
    pieces = [run(runner, 1, a, _TOKENS[a:b], "prompt") for a, b in ((0, 40), (40, 42), (42, 90))]
    assert np.array_equal(whole, np.concatenate(pieces))
    run(runner, 2, 0, _TOKENS, "prompt")
    width = runner.verify_width
    assert width is not None
    more = _TOKENS[:width]
    alone = np.concatenate([run(runner, 0, 90 + i, more[i : i + 1]) for i in range(width)])
    assert np.array_equal(alone, run(runner, 1, 90, more, "verify"))
    together = runner.run(StepPlan(0, np.full((3, 1), more[0], np.int64), np.full(3, 90, np.int32), np.arange(3)))
    assert all(np.array_equal(row, alone[0]) for row in together)


@pytest.mark.slow
@pytest.mark.parametrize("cache_type", [None, "int8"])
def test_the_kernels_say_what_the_stock_operators_say(device: Device, cache_type: Any) -> None:
    stock = run(device.runner(device.load(use_kernels=False, cache_type=cache_type)), 0, 0, _TOKENS)
    device.choose(for_answers=True, for_prompts=True)
    ours = run(device.runner(device.load(cache_type=cache_type)), 0, 0, _TOKENS)
    expected, found = log_softmax(stock), log_softmax(ours)
    assert not np.array_equal(expected, found)
    assert (np.exp(expected) * (expected - found)).sum(axis=1).mean() < 0.01
    assert (expected.argmax(axis=1) == found.argmax(axis=1)).mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("for_answers", "for_prompts"), [(True, False), (False, True)])
def test_prompts_and_answers_may_take_different_operators(device: Device, for_answers: bool, for_prompts: bool) -> None:
    device.choose(for_answers=for_answers, for_prompts=for_prompts)
    stock = device.load(use_kernels=False).path.parent
    file = device.load()
    assert (file.path.parent == stock) is not for_answers
    assert file.prompt_path is not None
    assert (file.prompt_path.parent == stock) is not for_prompts
    runner = device.runner(file)
    prompt = run(runner, 0, 0, _TOKENS, "prompt")
    assert not np.array_equal(prompt, run(runner, 1, 0, _TOKENS, "answer"))
    assert np.isfinite(run(runner, 0, 90, _TOKENS[:1])).all()
    assert replace(file, fast_prompts=False).prompt_session(1, spinning=False) is None


@pytest.mark.slow
def test_weights_are_on_the_disk_once(device: Device) -> None:
    device.load(use_kernels=False)
    unpacked = device.load(use_kernels=False).path.with_name("weights.bin").stat().st_size
    device.choose(for_answers=True, for_prompts=True)
    file = device.load()
    assert file.path.with_name("blocks.bin").stat().st_size < 0.75 * unpacked
    assert not file.path.with_name("weights.bin").exists()


@pytest.mark.slow
def test_weights_are_mapped_once_for_all_graphs_of_a_model(device: Device) -> None:
    device.choose(for_answers=True, for_prompts=True)
    file = device.load()

    def mappings() -> int:
        return Path("/proc/self/maps").read_text("utf-8").count(str(file.path.with_name("blocks.bin")))

    assert mappings() == 0
    runner = device.runner(file)
    assert runner.verify_width is not None
    assert mappings() == 1
    second = device.runner(file)
    assert mappings() == 1
    expected = run(runner, 0, 0, _TOKENS)
    del runner
    gc.collect()
    assert np.array_equal(run(second, 0, 0, _TOKENS), expected)
    del second
    gc.collect()
    assert mappings() == 0


@pytest.mark.slow
def test_the_memory_of_weights_follows_the_choice(device: Device) -> None:
    def counted() -> FormBytes:
        return form_bytes(device.bundle, device.home.prepacked, device.library.path)

    assert counted() == FormBytes()
    device.choose(for_answers=True, for_prompts=True)
    file = device.load()
    form = counted()
    assert form.answers is not None
    assert 0 < form.answers < file.path.with_name("blocks.bin").stat().st_size
    assert form.prompts in {0, None}
    measured, stock_bytes = device.choice(), device.bundle.manifest.loaded_bytes
    replace(measured, for_prompts=False).write(file.path.parent)
    assert counted() == FormBytes(form.answers, stock_bytes)
    replace(measured, for_answers=False).write(file.path.parent)
    assert counted() == FormBytes(prompts=form.answers)
    replace(measured, for_answers=False, for_prompts=False).write(file.path.parent)
    assert counted() == FormBytes()


@pytest.mark.slow
def test_a_form_that_nothing_takes_is_removed(device: Device) -> None:
    device.load()
    choice = device.choice()
    takes_stock = not (choice.for_answers and choice.for_prompts)
    takes_kernels = choice.for_answers or choice.for_prompts
    with_model = [folder for folder in device.folder.iterdir() if (folder / "model.onnx").exists()]
    assert len(with_model) == takes_stock + takes_kernels


@pytest.mark.slow
def test_the_stock_form_of_an_older_version_is_taken_as_it_is(device: Device) -> None:
    stock = device.load(use_kernels=False).path.parent  # has the name and the content that 0.1.0 gave it
    before = {path.name: path.stat().st_mtime_ns for path in stock.iterdir()}
    device.choose(for_answers=False, for_prompts=False)
    file = device.load()
    assert file.path.parent == stock
    assert {path.name: path.stat().st_mtime_ns for path in stock.iterdir()} == before
    assert serves_stock(device, file)


# Bad libraries


@pytest.mark.slow
def test_without_a_library_the_stock_operators_serve_and_nothing_is_wrong(device: Device, tmp_path: Path) -> None:
    absent = tmp_path / "absent.so"
    assert serves_stock(device, device.load(absent))
    assert device.findings(absent) == [(Level.GOOD, "no library was built: the stock operators serve")]
    assert device.findings(kernels=False) == [(Level.GOOD, "switched off by engine.kernels: the stock operators serve")]


@pytest.mark.slow
def test_a_library_that_was_tampered_with_is_never_loaded(device: Device, tmp_path: Path) -> None:
    mark = tmp_path / "loaded"
    source = f"""
        #include <cstdio>
        __attribute__((constructor)) static void start() {{ std::fclose(std::fopen("{mark}", "w")); }}
    """
    path = a_library(tmp_path, source)
    path.write_bytes(path.read_bytes() + b" ")
    assert serves_stock(device, device.load(path))
    [(level, text)] = device.findings(path)
    assert level is Level.NOTE
    assert "was changed since it was built" in text
    assert not mark.exists()


_NAMES = """
    extern "C" {{
    unsigned lantern_api_version() {{ return {version}; }}
    const char* lantern_family() {{ return "future"; }}
    unsigned long lantern_packed_size() {{ return 0; }}
    unsigned lantern_packed_bits() {{ return 0; }} int lantern_pack() {{ return 0; }}
    }}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("int lantern;", "does not load"),
        (_NAMES.format(version=999), "needs onnxruntime 1.999"),
        ("#include <cstdlib>\n__attribute__((constructor)) static void start() { std::abort(); }", "SIGABRT"),
    ],
    ids=["other names", "other ABI", "crashes"],
)
def test_a_library_that_cannot_be_used_is_tried_once_and_told(
    device: Device, tmp_path: Path, source: str, fault: str
) -> None:
    path = a_library(tmp_path, source)
    assert serves_stock(device, device.load(path))
    choice = device.choice(path)
    assert fault in choice.fault
    before = {folder: folder.stat().st_mtime_ns for folder in device.folder.iterdir()}
    assert serves_stock(device, device.load(path))
    assert {folder: folder.stat().st_mtime_ns for folder in device.folder.iterdir()} == before
    [(level, text)] = device.findings(path)
    assert level is Level.NOTE
    assert "ended a process" in text or fault in text


@pytest.mark.slow
def test_a_file_of_another_processor_is_told(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "arm.so"
    content = bytearray(device.library.path.read_bytes())
    content[18] ^= 0xFF  # the ELF header's machine
    path.write_bytes(content)
    assert serves_stock(device, device.load(signed(path)))
    assert "does not load" in device.choice(path).fault


@pytest.mark.slow
def test_a_form_of_the_kernels_that_is_damaged_gives_way_to_the_stock_operators(
    device: Device, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.choose(for_answers=True, for_prompts=True)
    device.load().path.with_name("blocks.bin").write_bytes(b"cut")
    monkeypatch.setattr("appliance.models.loading.prepacked", partial(prepacked, library=device.library.path))
    settings = EngineSettings(num_slots=2, use_device=False)
    file, runner = _runner(device.bundle, device.spec, settings, device.home.prepacked, 128)
    assert file.kernels is None
    assert np.isfinite(run(runner, 0, 0, _TOKENS)).all()
    assert "Stock operators serve tiny-chat" in caplog.text


@pytest.mark.slow
def test_a_trial_that_fails_without_a_crash_is_made_again(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.load(use_kernels=False)
    monkeypatch.setattr(making, "_KERNEL_TRIAL", "tests.engine.runtime.no_such_module")  # fails as any child may
    assert serves_stock(device, device.load())
    assert recorded_choice(device.bundle, device.home.prepacked, device.library.path) is None


@pytest.mark.slow
def test_a_trial_in_which_the_service_was_killed_twice_is_not_made_again(device: Device) -> None:
    version = hashlib.sha256(device.library.path.read_bytes()).hexdigest()
    begun = device.folder / f"{making._key(device.bundle.digest, version)}.begun"
    begun.write_text(".")
    device.load()
    assert device.choice().fault == ""
    assert not begun.exists()
    shutil.rmtree(begun.with_suffix(""))
    begun.write_text("..")
    assert serves_stock(device, device.load())
    assert "did not end" in device.choice().fault
    assert not begun.exists()
