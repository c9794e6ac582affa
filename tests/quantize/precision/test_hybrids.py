"""Models whose layers keep states are smoothed, fitted and weighed like all others, from windows that begin anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec
from appliance.engine.runtime.provider import session_options
from quantize.builder.weights import checkpoint_weights
from quantize.evaluation.hidden_states import HiddenStates
from quantize.evaluation.segments import feeds_of
from quantize.graph.factors import Factors
from quantize.precision.fit import fit_matrices
from quantize.precision.fitted import load_errors
from quantize.precision.kv_scales import write_int8_cache
from quantize.precision.matrices import matrices_of
from quantize.precision.mixed import decoder_parts, widths_by_pattern, write_mixed
from quantize.precision.sensitivity import load_sensitivity, measure_sensitivity
from quantize.precision.smoothing import smooth_file
from quantize.precision.torch_blocks import TorchBlocks
from quantize.progress import SILENT
from tests.quantize.builder.tiny_graphs import write_graph
from tests.quantize.precision.written_out import write_smoothed
from tests.quantize.tiny import GRANITE_HYBRID, VOCAB

pytestmark = pytest.mark.slow

_WINDOWS = np.random.default_rng(0).integers(3, VOCAB, (6, 48))
_ATTENTION = {
    "lfm2": 2,
    "qwen3_moe": 3,
    "lfm2_moe": 2,
    "lfm3": 2,
    "qwen3_5_text": 2,
    "granitemoehybrid": 1,
    "gemma4_text": 2,
    "nemotron_h": 1,
}  # layers that have keys and values
_BEHIND_A_PRODUCT = ("conv/out_proj", "mamba/out_proj", "mixer/out_proj", "down_proj", "w2")
_CHANGES = {"granitemoehybrid": GRANITE_HYBRID}


@dataclass(frozen=True, slots=True)
class Hybrid:
    """A float graph, its canonical checkpoint, and its matrices fitted in two widths."""

    graph: Path
    checkpoint: Path
    fitted: Path
    spec: DecoderSpec


@pytest.fixture(scope="module", params=sorted(_ATTENTION))
def hybrid(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Hybrid:
    root = tmp_path_factory.mktemp("hybrid")
    graph, spec = write_graph(root, request.param, is_float=True, **_CHANGES.get(request.param, {}))
    (root / "fitted").mkdir()
    fit_matrices(graph, root / "fitted", (4, 8), _WINDOWS, spec, SILENT)
    return Hybrid(graph, root / "checkpoint", root / "fitted", spec)


def test_smoothing_changes_the_weights_and_not_the_function(hybrid: Hybrid, tmp_path: Path) -> None:
    smooth_file(hybrid.graph, tmp_path, _WINDOWS, 0.5, SILENT)
    before, after = logits(hybrid.graph), logits(write_smoothed(hybrid.graph, tmp_path, tmp_path))
    assert np.abs(after - before).max() <= 1e-4 * before.std()
    changed = set(Factors.load(tmp_path).columns)
    names = {matrix.name for matrix in matrices_of(ir.load(hybrid.graph / "model.onnx").graph) if not matrix.is_head}
    assert {name for name in names if "/in_proj" in name or "/qkv_proj" in name} <= changed
    assert {name for name in names if name.endswith(_BEHIND_A_PRODUCT)} <= changed


def test_every_product_is_fitted_and_only_attention_has_scales_of_keys_and_values(hybrid: Hybrid) -> None:
    parts = decoder_parts(hybrid.graph, hybrid.spec)
    assert set(load_errors(hybrid.fitted)) == {part.name for part in parts}
    scales = np.fromfile(hybrid.fitted / "kv_scales.bin", "<f4")
    spec, layers = hybrid.spec, _ATTENTION[hybrid.spec.architecture]
    shapes = spec.kv_shapes or [(spec.num_kv_heads, spec.head_dim)] * layers
    assert scales.size == 2 * sum(heads * width for heads, width in filter(None, shapes))


def test_int8_weights_cost_little_and_int8_keys_and_values_little_more(hybrid: Hybrid, tmp_path: Path) -> None:
    weights, cached = tmp_path / "weights", tmp_path / "int8"
    weights.mkdir()
    cached.mkdir()
    parts = decoder_parts(hybrid.graph, hybrid.spec)
    write_mixed(hybrid.graph, hybrid.fitted, weights, hybrid.spec, widths_by_pattern(parts, {8: ["*"]}))
    before, after = logits(hybrid.graph), logits(weights)
    assert np.abs(after - before).mean() < 0.1 * before.std()
    write_int8_cache(weights, hybrid.fitted, cached, hybrid.spec)
    inputs = {value.name: value.dtype for value in ir.load(cached / "model.onnx").graph.inputs}
    assert {name for name, dtype in inputs.items() if dtype == ir.DataType.INT8} == {
        name for name in inputs if name.startswith("past_key_values.")
    }


def test_gates_and_routers_stay_int8(hybrid: Hybrid) -> None:
    widths = widths_by_pattern(decoder_parts(hybrid.graph, hybrid.spec), {})
    kept = {name for name, bits in widths.items() if bits == 8}
    assert kept == {
        name for name in widths if name.endswith(("in_proj_ba", "self_attn/gate_proj", "mlp/gate", "feed_forward/gate"))
    }


def test_block_by_block_gives_the_logits_of_the_whole_graph(hybrid: Hybrid) -> None:
    found = HiddenStates.of(hybrid.graph, [_WINDOWS[0]], SILENT).head()(0, range(48))
    np.testing.assert_allclose(found, logits(hybrid.graph), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("hybrid", ["lfm2", "granitemoehybrid"], indirect=True)
def test_each_part_that_torch_knows_has_a_weight_in_the_search(hybrid: Hybrid, tmp_path: Path) -> None:
    parts = decoder_parts(hybrid.graph, hybrid.spec)
    blocks = TorchBlocks.canonical(hybrid.checkpoint, checkpoint_weights(hybrid.checkpoint))
    measure_sensitivity(blocks, hybrid.fitted, Factors(), parts, _WINDOWS, tmp_path, SILENT)
    found = load_sensitivity(tmp_path)
    assert set(found) == {part.name for part in parts}
    assert all(value > 0 for value in found.values())


def logits(folder: Path) -> NDArray[np.float32]:
    """Compute the first window as a whole."""
    session = ort.InferenceSession(str(folder / "model.onnx"), session_options(1))
    feeds = {**feeds_of(folder, [_WINDOWS[0]])[0], "logit_rows": np.arange(len(_WINDOWS[0]))}
    found: NDArray[np.float32] = session.run(["logits"], feeds)[0]
    return found
