"""Smoothing changes no function, evens the channels out, and lets int8 lose less."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from appliance.bundle import DecoderSpec
from appliance.engine.types import StepPlan
from quantize.evaluation.runners import load_runner
from quantize.evaluation.segments import feeds_of, segments_of, walk
from quantize.fusion.export import DECODER_TASK, export
from quantize.fusion.fuse import fuse_file
from quantize.graph.factors import Factors
from quantize.precision.channels import channel_moments
from quantize.precision.fit import fit_matrices
from quantize.precision.matrices import matrices_of
from quantize.precision.mixed import decoder_parts, widths_by_pattern, write_mixed
from quantize.precision.smoothing import smooth_file
from quantize.progress import SILENT
from quantize.sources.decoder_config import read_decoder_config
from tests.quantize.precision.written_out import write_smoothed
from tests.quantize.tiny import DECODERS, VOCAB, tiny_spec, write_decoder

pytestmark = pytest.mark.slow

_RNG = np.random.default_rng(5)
_WINDOWS = _RNG.integers(3, VOCAB, (6, 48))
_LOUD = 12.0
_JOINED = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}


@dataclass(frozen=True, slots=True)
class Smoothed:
    checkpoint: Path
    fused: Path
    folder: Path
    spec: DecoderSpec


@pytest.fixture(scope="module", params=sorted(DECODERS))
def smoothed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Smoothed:
    root = tmp_path_factory.mktemp("smoothed")
    changes: dict[str, Any] = {"attention_bias": True, "mlp_bias": True} if request.param == "llama" else {}
    checkpoint = write_decoder(root / "checkpoint", request.param, **changes)
    config = read_decoder_config(checkpoint)
    (root / "fused").mkdir()
    (root / "smoothed").mkdir()
    export(checkpoint, root / "exported", task=DECODER_TASK)
    fuse_file(root / "exported", root / "fused", config, context_length=64)
    _make_loud(root / "fused")
    spec = tiny_spec(config)
    smooth_file(root / "fused", root / "smoothed", _WINDOWS, 0.5, SILENT)
    return Smoothed(checkpoint, root / "fused", root / "smoothed", spec)


def test_the_float_weights_have_one_copy(smoothed: Smoothed) -> None:
    size_bytes = sum(path.stat().st_size for path in smoothed.folder.iterdir())
    assert size_bytes < 0.2 * (smoothed.fused / "model.onnx.data").stat().st_size


def test_the_function_stays_the_same(smoothed: Smoothed, tmp_path: Path) -> None:
    before, after = (
        logits(smoothed.fused, smoothed.spec),
        logits(write_smoothed(smoothed.fused, smoothed.folder, tmp_path), smoothed.spec),
    )
    assert np.abs(before - after).max() <= 1e-4 * before.std()


def test_every_input_is_smoothed_where_that_costs_nothing(smoothed: Smoothed) -> None:
    factors = Factors.load(smoothed.folder)
    found = {name.rsplit("/", 1)[-1] for name in factors.columns}
    assert found == _JOINED


def test_block_by_block_a_smoothed_graph_has_the_same_values(smoothed: Smoothed, tmp_path: Path) -> None:
    folder, factors = write_smoothed(smoothed.fused, smoothed.folder, tmp_path), Factors.load(smoothed.folder)
    names = list(dict.fromkeys(m.input_name for m in matrices_of(ir.load(folder / "model.onnx").graph)))[:-1]
    groups = [names[:3], names[3:]]
    feeds = feeds_of(smoothed.fused, [_WINDOWS[0]])
    whole = walk(folder, segments_of(folder, groups), feeds, SILENT)
    scaled = walk(smoothed.fused, segments_of(smoothed.fused, groups, factors=factors), feeds, SILENT, factors=factors)
    for (_, _, wanted), (_, _, found) in zip(whole, scaled, strict=True):
        assert wanted.keys() == found.keys()
        assert all(np.array_equal(wanted[name], found[name]) for name in wanted)


def test_channels_are_more_even_afterwards(smoothed: Smoothed, tmp_path: Path) -> None:
    factors = Factors.load(smoothed.folder)
    spreads = []
    for folder in (smoothed.fused, write_smoothed(smoothed.fused, smoothed.folder, tmp_path)):
        matrices = [m for m in matrices_of(ir.load(folder / "model.onnx").graph) if m.name in factors.columns]
        widths = {m.input_name: m.num_inputs for m in matrices}
        moments = channel_moments(folder, widths, _WINDOWS, SILENT)
        spreads.append(np.mean([np.log(values).std() for values in moments.values()]))
    assert spreads[1] < 0.8 * spreads[0]


def test_a_smoothed_matrix_is_turned_back_into_the_checkpoints(smoothed: Smoothed) -> None:
    factors = Factors.load(smoothed.folder)
    for matrix in matrices_of(ir.load(smoothed.fused / "model.onnx").graph):
        after = factors.apply(matrix.name, matrix.weight())
        assert (matrix.name in factors.columns) == (not np.array_equal(after, matrix.weight()))
        np.testing.assert_allclose(factors.undo(matrix.name, after), matrix.weight(), rtol=1e-5, atol=1e-7)


def test_int8_loses_less_than_without(smoothed: Smoothed, tmp_path: Path) -> None:
    reference, errors = logits(smoothed.fused, smoothed.spec), []
    widths = widths_by_pattern(decoder_parts(smoothed.fused, smoothed.spec), {8: ["*"]})
    for name, folder in (("plain", None), ("smoothed", smoothed.folder)):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}-fit").mkdir()
        fit = tmp_path / f"{name}-fit"
        fit_matrices(smoothed.fused, fit, (8,), _WINDOWS, smoothed.spec, SILENT, smoothed=folder)
        write_mixed(smoothed.fused, fit, tmp_path / name, smoothed.spec, widths, smoothed=folder)
        errors.append(np.abs(logits(tmp_path / name, smoothed.spec) - reference).mean())
    assert errors[1] < errors[0]


def logits(folder: Path, spec: DecoderSpec) -> np.ndarray:
    runner = load_runner(folder, spec, capacity=64)
    rows = np.arange(_WINDOWS.shape[1], dtype=np.int64)
    found = [runner.run(StepPlan(0, window[None], np.zeros(1, np.int32), rows)).copy() for window in _WINDOWS]
    return np.concatenate(found)


def _make_loud(fused: Path) -> None:
    """Make a few channels of every norm much larger than the others, as in trained models."""
    model = ir.load(fused / "model.onnx")
    for node in model.graph:
        if node.op_type.endswith("SimplifiedLayerNormalization"):
            gamma = node.inputs[-1]
            array = gamma.const_value.numpy().copy()
            if len(array) > 40:
                array[[3, 40]] *= _LOUD
            gamma.const_value = ir.tensor(array, name=gamma.name)
    (fused / "loud").mkdir()
    ir.save(model, fused / "loud" / "model.onnx", external_data="model.onnx.data")
    for name in ("model.onnx", "model.onnx.data"):
        (fused / "loud" / name).replace(fused / name)
