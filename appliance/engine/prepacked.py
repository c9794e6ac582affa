"""A model as onnxruntime wants it on this machine: optimized, its weights packed for the processor, mapped from a file.

Made once in a child process, whose peak of memory ends with it; where that fails, the bundle's own file is loaded. It
belongs to one bundle, one processor and one onnxruntime version; when any differs, it is made again. The child also
measures how many threads suit the model here.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime as ort

from appliance.bundle import Bundle
from appliance.bundle.manifest import KV_SCALES_NAME, MODEL_NAME
from appliance.engine.graph_edit import int8_cache, stepwise
from appliance.engine.kv_cache import CacheType
from appliance.engine.provider import session_options
from appliance.engine.tuning import Tuning, tune
from appliance.host.cores import usable_cores

_LOGGER = logging.getLogger(__name__)

_DATA_NAME = "weights.bin"
_INT8_NAME = "model.int8.onnx"  # with keys and values in int8
_TUNING_NAME = "tuning.json"
_LAYOUT = "3"  # of the folder; another one is made again
_MIN_EXTERNAL_BYTES = 1024
_ONE_AT_A_TIME = threading.Lock()  # a measurement beside another one tells nothing


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A graph to load, whether onnxruntime has already optimized it, and how it runs best on this board."""

    path: Path
    is_optimized: bool = False
    tuning: Tuning = field(default_factory=Tuning.default)
    cache_type: CacheType | None = None  # None: as the bundle says

    stepwise_width: ClassVar[int] = 6  # tokens of a stepwise run

    def session(self, num_threads: int, *, spinning: bool) -> ort.InferenceSession:
        """Load it for the CPU."""
        return self._load(self.path, num_threads, spinning=spinning)

    def stepwise_session(self, num_threads: int, *, spinning: bool) -> ort.InferenceSession | None:
        """Load its stepwise variant, where there is one; both map the same weights."""
        path = _stepwise_path(self.path)
        return self._load(path, num_threads, spinning=spinning) if self.is_optimized and path.exists() else None

    def _load(self, path: Path, num_threads: int, *, spinning: bool) -> ort.InferenceSession:
        options = session_options(num_threads, spinning=spinning)
        if self.is_optimized:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def prepacked(
    bundle: Bundle, cache: Path, *, cache_type: CacheType | None = None, timeout_s: float = 600.0
) -> ModelFile:
    """The prepacked form of a bundle's model, made now where it is absent; the bundle's own file where that fails.

    `cache_type`: of the keys and values, where the bundle has what that takes.
    """
    source = bundle.path(MODEL_NAME)
    home = cache / bundle.name
    target = home / _key(bundle)
    with _ONE_AT_A_TIME:
        if not (target / MODEL_NAME).exists():
            _LOGGER.info("Preparing %s for this processor (once)", bundle.name)
            if not _make(source, target, timeout_s):
                return ModelFile(source)
            for other in home.iterdir():
                if other != target:
                    shutil.rmtree(other, ignore_errors=True)
    tuning = Tuning.read(target / _TUNING_NAME)
    if cache_type == "int8" and (target / _INT8_NAME).exists():
        return ModelFile(target / _INT8_NAME, is_optimized=True, tuning=tuning, cache_type="int8")
    return ModelFile(target / MODEL_NAME, is_optimized=True, tuning=tuning)


def _make(source: Path, target: Path, timeout_s: float) -> bool:
    """Run the child and put its result in place by one rename."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=target.parent, ignore_cleanup_errors=True) as staged:
            folder = Path(staged) / "made"
            folder.mkdir()
            command = [sys.executable, "-m", __name__, str(source), str(folder)]
            subprocess.run(command, check=True, timeout=timeout_s, capture_output=True)  # noqa: S603
            folder.rename(target)
    except (OSError, subprocess.SubprocessError) as err:
        _LOGGER.warning("The model %s is loaded as it is: %s", source.parent.name[:16], err)
        return False
    return True


def _key(bundle: Bundle) -> str:
    parts = (_LAYOUT, bundle.digest, ort.__version__, platform.machine(), _processor(), f"cores {usable_cores()}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _processor() -> str:
    """Model and features of the first processor: what packing depends on."""
    try:
        first = Path("/proc/cpuinfo").read_text("utf-8", "replace").split("\n\n")[0]
    except OSError:
        return platform.processor()
    names = ("model name", "flags", "Features", "CPU part", "CPU implementer")
    return "\n".join(line for line in first.splitlines() if line.split("\t")[0].strip() in names)


def _write(source: Path, folder: Path) -> None:
    options = session_options(os.cpu_count() or 1)
    options.optimized_model_filepath = str(folder / MODEL_NAME)
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", _DATA_NAME)
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_min_size_in_bytes", str(_MIN_EXTERNAL_BYTES)
    )
    session = ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    if "seqlens_k" in {i.name for i in session.get_inputs()}:
        _write_variants(source.with_name(KV_SCALES_NAME), folder)


def _write_variants(scales: Path, folder: Path) -> None:
    """The graphs that the device derives from the optimized one; all map its weights."""
    optimized = folder / MODEL_NAME
    if scales.exists():
        values = np.fromfile(scales, "<f4")
        (folder / _INT8_NAME).write_bytes(int8_cache(optimized.read_bytes(), values))
    for path in (optimized, folder / _INT8_NAME):
        if path.exists():
            _stepwise_path(path).write_bytes(stepwise(path.read_bytes(), ModelFile.stepwise_width))


def _stepwise_path(model: Path) -> Path:
    return model.with_name(model.name.replace("model", "stepwise", 1))


def _tune(folder: Path) -> None:
    file = ModelFile(folder / MODEL_NAME, is_optimized=True)
    tuning = tune(lambda num_threads, spinning: file.session(num_threads, spinning=spinning), usable_cores())
    tuning.write(folder / _TUNING_NAME)


if __name__ == "__main__":
    _write(Path(sys.argv[1]), Path(sys.argv[2]))
    _tune(Path(sys.argv[2]))
