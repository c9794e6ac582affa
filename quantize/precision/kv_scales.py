"""What a device needs to keep keys and values in int8: one scale a channel, from the largest magnitudes in float.

The bundle's graph stays as it is; the device derives the other one from it (appliance/engine/graph_edit.py).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import KV_SCALES_NAME, MODEL_DATA_NAME, MODEL_NAME
from appliance.engine.graph_edit import int8_cache
from appliance.engine.provider import session_options
from quantize.evaluation.decoder import Metrics, evaluate_decoder, runner_threads
from quantize.pipeline import PARTIAL
from quantize.precision.hessians import feeds_of

_PARTS = ("key", "value")
_LARGEST = np.float32(127)
_SMALLEST_PEAK = np.float32(1e-4)


def measure_kv_scales(
    fused: Path, target: Path, windows: NDArray[np.int64], spec: DecoderSpec, report: Callable[[float], None]
) -> None:
    """Write one scale for each channel of each layer's keys (after rotation) and values, as the manifest describes."""
    session = ort.InferenceSession(str(fused / MODEL_NAME), session_options(runner_threads()))
    names = [f"present.{layer}.{part}" for layer in range(spec.num_layers) for part in _PARTS]
    peaks = np.full((spec.num_layers * len(_PARTS), spec.num_kv_heads * spec.head_dim), _SMALLEST_PEAK)
    for index, window in enumerate(windows):
        for at, array in enumerate(session.run(names, feeds_of(window, spec))):
            peaks[at] = np.maximum(peaks[at], np.abs(array[0]).max(axis=1).reshape(-1))
        report((index + 1) / len(windows))
    (target / KV_SCALES_NAME).write_bytes((peaks / _LARGEST).astype("<f4").tobytes())


def int8_cache_metrics(
    fused: Path,
    folder: Path,
    scales: Path,
    checkpoint: Path,
    spec: DecoderSpec,
    scratch: Path,
    report: Callable[[float], None],
) -> Metrics:
    """The loss where a device also keeps keys and values in int8; `scales` is the folder that holds them."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix=PARTIAL) as temporary:
        cached = write_int8_cache(folder, scales, Path(temporary), spec)
        found = evaluate_decoder(fused, Path(temporary), checkpoint, cached, report).metrics
    return {f"{name}_int8_kv": found[name] for name in ("kl_mean", "top1_agreement")}


def write_int8_cache(folder: Path, scales: Path, target: Path, spec: DecoderSpec) -> DecoderSpec:
    """Write the graph of FOLDER as a device would derive it, for the same data file; gives the spec that it then has.

    Raises:
        ModelError: the scales are not those of this graph.
    """
    values = np.frombuffer((scales / KV_SCALES_NAME).read_bytes(), "<f4").reshape(spec.num_layers, len(_PARTS), -1)
    (target / MODEL_NAME).write_bytes(int8_cache((folder / MODEL_NAME).read_bytes(), values))
    shutil.copyfile(folder / MODEL_DATA_NAME, target / MODEL_DATA_NAME)
    return spec.model_copy(update={"kv_cache_dtype": "int8"})
