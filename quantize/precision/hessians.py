"""Second moments of what each matrix multiplies: the float graph run over calibration text, its values tapped.

Onnxruntime computes, torch sums up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.provider import session_options
from quantize.evaluation.decoder import runner_threads

_GROUP_BYTES = 1 << 30

Hessian = NDArray[np.float32]


def hessians(
    float_folder: Path,
    widths: dict[str, int],
    windows: NDArray[np.int64],
    spec: DecoderSpec,
    report: Callable[[float], None],
) -> Iterator[dict[str, Hessian]]:
    """Sums of x x^T (K, K) of the values in `widths` (name to K), in groups that fit into memory.

    Each group runs the text through the model once more.
    """
    groups = _groups(widths)
    session = _tapped_session(float_folder, list(widths))
    for index, names in enumerate(groups):
        sums = {name: np.zeros((widths[name], widths[name]), np.float32) for name in names}
        for at, window in enumerate(windows):
            for name, value in zip(names, session.run(names, feeds_of(window, spec)), strict=True):
                rows = torch.from_numpy(value).reshape(-1, widths[name])
                torch.from_numpy(sums[name]).addmm_(rows.T, rows)
            report((index + (at + 1) / len(windows)) / len(groups))
        yield sums


def channel_moments(
    float_folder: Path,
    widths: dict[str, int],
    windows: NDArray[np.int64],
    spec: DecoderSpec,
    report: Callable[[float], None],
) -> dict[str, NDArray[np.float32]]:
    """The mean square of each channel of the values in `widths` (name to K)."""
    session = _tapped_session(float_folder, list(widths))
    sums = {name: np.zeros(width, np.float64) for name, width in widths.items()}
    for at, window in enumerate(windows):
        for name, value in zip(widths, session.run(list(widths), feeds_of(window, spec)), strict=True):
            sums[name] += np.square(value, dtype=np.float64).reshape(-1, widths[name]).sum(axis=0)
        report((at + 1) / len(windows))
    return {name: np.asarray(total / windows.size, np.float32) for name, total in sums.items()}


def feeds_of(window: NDArray[np.int64], spec: DecoderSpec) -> dict[str, NDArray[np.generic]]:
    """One window as a whole, from an empty cache; logits of its first row only."""
    length = len(window)
    empty = np.zeros((1, spec.num_kv_heads, length, spec.head_dim), np.float32)
    feeds: dict[str, NDArray[np.generic]] = {
        "input_ids": window[None],
        "seqlens_k": np.array([length - 1], np.int32),
        "total_sequence_length": np.array(length, np.int32),
        "logit_rows": np.zeros(1, np.int64),
    }
    for layer in range(spec.num_layers):
        feeds[f"past_key_values.{layer}.key"] = feeds[f"past_key_values.{layer}.value"] = empty
    return feeds


def _groups(widths: dict[str, int]) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    size = 0
    for name, width in widths.items():
        size += 4 * width * width
        if groups[-1] and size > _GROUP_BYTES:
            groups.append([])
            size = 4 * width * width
        groups[-1].append(name)
    return groups


def _tapped_session(float_folder: Path, names: Sequence[str]) -> ort.InferenceSession:
    """The float graph whose named values are outputs as well, over the data file where it lies."""
    model = ir.load(float_folder / MODEL_NAME)
    wanted = set(names)
    for node in model.graph:
        for value in node.outputs:
            if value.name in wanted:
                value.type = ir.TensorType(ir.DataType.FLOAT)
                model.graph.outputs.append(value)
    options = session_options(runner_threads())
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(float_folder))
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
