"""Keys and values in int8: one scale a channel, from the largest magnitudes that the float model shows.

The attention operator then reads and writes int8 rows itself; a row takes a quarter of the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.provider import session_options
from quantize.evaluation.decoder import runner_threads
from quantize.graph.codec import Float32
from quantize.graph.edit import Editor, refuse
from quantize.precision.hessians import feeds_of

NAME = "kv_scales.npz"

_PARTS = ("key", "value")
_SCALE_INPUTS = {"key": 12, "value": 13}  # of GroupQueryAttention
_LARGEST = np.float32(127)
_SMALLEST_PEAK = np.float32(1e-4)


def measure_kv_scales(
    fused: Path, target: Path, windows: NDArray[np.int64], spec: DecoderSpec, report: Callable[[float], None]
) -> None:
    """Write one scale for each channel of each layer's keys (after rotation) and values."""
    session = ort.InferenceSession(str(fused / MODEL_NAME), session_options(runner_threads()))
    names = [f"{layer}.{part}" for layer in range(spec.num_layers) for part in _PARTS]
    peaks = {name: np.full(spec.num_kv_heads * spec.head_dim, _SMALLEST_PEAK) for name in names}
    for index, window in enumerate(windows):
        arrays = session.run([f"present.{name}" for name in names], feeds_of(window, spec))
        for name, array in zip(names, arrays, strict=True):
            peaks[name] = np.maximum(peaks[name], np.abs(array[0]).max(axis=1).reshape(-1))
        report((index + 1) / len(windows))
    scales: dict[str, Any] = {name: (peak / _LARGEST).astype(np.float32) for name, peak in peaks.items()}
    np.savez(target / NAME, **scales)


def load_kv_scales(folder: Path) -> dict[str, Float32]:
    """Scales by "LAYER.key" and "LAYER.value"."""
    with np.load(folder / NAME) as arrays:
        return {name: np.asarray(arrays[name], np.float32) for name in arrays.files}


def quantize_kv(model: ir.Model, scales: Mapping[str, Float32]) -> None:
    """Let the graph take and give int8 keys and values, in place.

    Raises:
        QuantizeError: a layer's attention is missing.
    """
    edit = Editor(model.graph)
    for value in [*model.graph.inputs, *model.graph.outputs]:
        if value.name.startswith(("past_key_values.", "present.")):
            value.type = ir.TensorType(ir.DataType.INT8)
    attentions = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    if 2 * len(attentions) != len(scales):
        raise refuse(None, f"it has {len(attentions)} attention nodes and {len(scales)} arrays of scales")
    for node in attentions:
        layer = node.inputs[3].name.split(".")[1]
        node.resize_inputs(max(_SCALE_INPUTS.values()) + 1)
        for part, at in _SCALE_INPUTS.items():
            name = f"{layer}.{part}"
            node.replace_input_with(at, edit.constant(f"kv_scales.{name}", scales[name]))
            node.attributes.add(ir.AttrString(f"{part[0]}_quant_type", "PER_CHANNEL"))
        node.attributes.add(ir.AttrInt64("kv_cache_bit_width", 8))
