"""A model as onnxruntime wants it on this machine: optimized, its weights packed for the processor, mapped from a file.

Made once in a child process, whose peak of memory ends with it; where that fails, the bundle's own file is loaded. It
belongs to one bundle, one processor and one onnxruntime version; when any differs, it is made again. The child also
measures how many threads suit the model here, and whether prompts are faster with a graph of their own.
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
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.bundle import Bundle, DecoderSpec
from appliance.bundle.manifest import KV_SCALES_NAME, MODEL_NAME
from appliance.engine.device import device_graph
from appliance.engine.graph_edit import int8_cache, stepwise
from appliance.engine.kv_cache import CacheType
from appliance.engine.model_file import ModelFile, variant_path
from appliance.engine.prompt_graph import int8_products_are_exact, with_int8_products, write_int8_products
from appliance.engine.provider import CPU, session_options
from appliance.engine.tuning import Tuning, can_measure_prompts, guess_s, prompt_is_faster, tune
from appliance.host.cores import usable_cores

_LOGGER = logging.getLogger(__name__)

_DATA_NAME = "weights.bin"
_INT8_NAME = "model.int8.onnx"  # with keys and values in int8
TUNING_NAME = "tuning.json"
_PRODUCTS_NAME = "products.onnx"  # of prompts, packed
_PRODUCTS_DATA_NAME = "products.bin"
_LAYOUT = "5"  # of the folder; another one is made again
_MIN_EXTERNAL_BYTES = 1024
_ONE_AT_A_TIME = threading.Lock()  # a measurement beside another one tells nothing


def prepacked(
    bundle: Bundle,
    cache: Path,
    *,
    cache_type: CacheType | None = None,
    fast_prompts: bool = True,
    use_device: bool = True,
    timeout_s: float = 600.0,
) -> ModelFile:
    """The prepacked form of a bundle's model, made now where it is absent; the bundle's own file where that fails.

    `cache_type`: of the keys and values, where the bundle has what that takes. `fast_prompts`: with a graph for
    prompts, where that is faster here. `use_device`: on another device than the processor, where there is one that
    computes the same sooner; it has no int8 keys and values.
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
        is_for_device = use_device and cache_type != "int8" and isinstance(bundle.manifest.model, DecoderSpec)
        device = device_graph(bundle, target) if is_for_device else None
    tuning = Tuning.read(target / TUNING_NAME)
    if device is not None:
        return ModelFile(device.path, tuning=tuning, device=device)
    if cache_type == "int8" and (target / _INT8_NAME).exists():
        path, kept = target / _INT8_NAME, cache_type
    else:
        path, kept = target / MODEL_NAME, None
    return ModelFile(path, is_optimized=True, tuning=tuning, cache_type=kept, fast_prompts=fast_prompts)


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


def _optimize(source: Path, target: Path, data_name: str) -> ort.InferenceSession:
    options = session_options(os.cpu_count() or 1)
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", data_name)
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_min_size_in_bytes", str(_MIN_EXTERNAL_BYTES)
    )
    return ort.InferenceSession(str(source), options, providers=[CPU])


def _write(source: Path, folder: Path) -> None:
    session = _optimize(source, folder / MODEL_NAME, _DATA_NAME)
    is_decoder = "seqlens_k" in {i.name for i in session.get_inputs()}
    del session
    if not is_decoder:
        _tune(folder)
        return
    scales = source.with_name(KV_SCALES_NAME)
    if scales.exists():
        _write_int8(folder, "model", np.fromfile(scales, "<f4"))
    for path in (folder / MODEL_NAME, folder / _INT8_NAME):
        if path.exists():
            variant_path(path, "stepwise").write_bytes(stepwise(path.read_bytes(), ModelFile.stepwise_width))
    _tune(folder)
    if _write_prompt(folder) and scales.exists():
        _write_int8(folder, "prompt", np.fromfile(scales, "<f4"))


def _write_int8(folder: Path, name: str, scales: NDArray[np.float32]) -> None:
    """The same graph with keys and values in int8."""
    path = folder / f"{name}.int8.onnx"
    path.write_bytes(int8_cache((folder / f"{name}.onnx").read_bytes(), scales))


def _write_prompt(folder: Path) -> bool:
    """The graph for prompts, where this processor computes it right and faster."""
    optimized, staged, products = folder / MODEL_NAME, folder / "staged.onnx", folder / _PRODUCTS_NAME
    prompt, tuning = variant_path(optimized, "prompt"), Tuning.read(folder / TUNING_NAME)
    try:
        plain = ModelFile(optimized, is_optimized=True, tuning=tuning).session(tuning.num_threads, spinning=False)
        if not (can_measure_prompts(guess_s(plain)) and int8_products_are_exact()):
            return False
        write_int8_products(optimized, staged)
        _optimize(staged, products, _PRODUCTS_DATA_NAME)
        prompt.write_bytes(with_int8_products(optimized.read_bytes(), products.read_bytes()))
        is_kept = _is_faster(optimized, prompt, tuning)
    except Exception as err:  # noqa: BLE001 (products of another form, a full disk: answers do without)
        print(f"There is no graph for prompts: {err}", file=sys.stderr)  # noqa: T201
        is_kept = False
    finally:
        for path in (staged, staged.with_suffix(".raw"), products):
            path.unlink(missing_ok=True)
    if not is_kept:
        prompt.unlink(missing_ok=True)
        (folder / _PRODUCTS_DATA_NAME).unlink(missing_ok=True)
    return is_kept


def _is_faster(optimized: Path, prompt: Path, tuning: Tuning) -> bool:
    sessions = [
        ModelFile(path, is_optimized=True).session(tuning.num_threads, spinning=tuning.spinning)
        for path in (optimized, prompt)
    ]
    return prompt_is_faster(*sessions)


def _tune(folder: Path) -> None:
    file = ModelFile(folder / MODEL_NAME, is_optimized=True)
    tuning = tune(lambda num_threads, spinning: file.session(num_threads, spinning=spinning), usable_cores())
    tuning.write(folder / TUNING_NAME)


if __name__ == "__main__":
    _write(Path(sys.argv[1]), Path(sys.argv[2]))
