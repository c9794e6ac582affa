"""The scales with which a device keeps keys and values in int8: one a channel, from the largest magnitudes in float.

The bundle's graph stays as it is; the device derives the other one from it (appliance/engine/graphs/variants.py).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import KV_SCALES_NAME, MODEL_DATA_NAME, MODEL_NAME
from appliance.engine.graphs.variants import with_int8_kv
from quantize.evaluation.decoder import Reference, evaluate_decoder
from quantize.evaluation.metrics import Metrics
from quantize.pipeline import PARTIAL
from quantize.progress import Progress

_PRESENT = "present."  # keys and values; states have names of their own
_LARGEST = np.float32(127)
_SMALLEST_PEAK = np.float32(1e-4)


class KvPeaks:
    """The largest magnitude of each channel of keys (after rotation) and values so far, by layer."""

    def __init__(self, folder: Path) -> None:
        outputs = ir.load(folder / MODEL_NAME).graph.outputs
        sizes = {value.name: value.shape for value in outputs if value.name.startswith(_PRESENT)}
        self.names = tuple(sizes)
        self._peaks = {name: np.full(size[1] * size[3], _SMALLEST_PEAK, np.float32) for name, size in sizes.items()}

    def add(self, name: str, cache: NDArray[np.generic]) -> None:
        """Take in keys or values (1, heads, tokens, head_dim) of one layer and one text."""
        self._peaks[name] = np.maximum(self._peaks[name], np.abs(cache[0]).max(axis=1).reshape(-1))

    def save(self, folder: Path) -> None:
        """Write one scale for each channel, as the manifest describes."""
        scales = np.concatenate([self._peaks[name] for name in self.names]) / _LARGEST
        (folder / KV_SCALES_NAME).write_bytes(scales.astype("<f4").tobytes())


def int8_cache_metrics(
    reference: Reference, folder: Path, scales: Path, spec: DecoderSpec, scratch: Path, progress: Progress
) -> Metrics:
    """Measure the loss on a device that also keeps keys and values in int8; `scales` is the folder of their scales."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix=PARTIAL) as temporary:
        cached = write_int8_cache(folder, scales, Path(temporary), spec)
        found = evaluate_decoder(reference, Path(temporary), cached, progress).metrics
    return {f"{name}_int8_kv": found[name] for name in ("kl_mean", "top1_agreement")}


def write_int8_cache(folder: Path, scales: Path, target: Path, spec: DecoderSpec) -> DecoderSpec:
    """Write the graph of FOLDER as a device derives it, for the same data file, and return its spec.

    Raises:
        ModelError: the scales are not those of this graph.
    """
    values = np.frombuffer((scales / KV_SCALES_NAME).read_bytes(), "<f4")
    (target / MODEL_NAME).write_bytes(with_int8_kv((folder / MODEL_NAME).read_bytes(), values))
    shutil.copyfile(folder / MODEL_DATA_NAME, target / MODEL_DATA_NAME)
    return spec.model_copy(update={"kv_cache_dtype": "int8"})
