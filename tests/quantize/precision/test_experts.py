"""Experts are fitted to the tokens that they get, stored in blocks, and computed alike whatever else is in a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec
from appliance.engine.runtime.provider import session_options
from appliance.errors import QuantizeError
from quantize.graph.codec import Bits, QuantizedMatrix, round_to_nearest
from quantize.graph.files import save_graph
from quantize.precision.experts import fit_experts
from quantize.precision.matrices import Matrix, matrices_of, quantize_graph
from quantize.precision.mixtures import Mixture, mixtures_of
from tests.quantize.builder.tiny_graphs import write_graph

pytestmark = pytest.mark.slow

_TOKENS = 600


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DecoderSpec]:
    return write_graph(tmp_path_factory.mktemp("experts"), "qwen3_moe", is_float=True)


@pytest.fixture
def mixture(model: tuple[Path, DecoderSpec]) -> Mixture:
    return mixtures_of(ir.load(model[0] / "model.onnx").graph)[0]


def inputs(mixture: Mixture, *, favoured: int | None = None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows whose channels depend on each other, so that compensation matters, and their scores."""
    rng = np.random.default_rng(0)
    few = rng.standard_normal((_TOKENS, 12)) @ rng.standard_normal((12, mixture.hidden))
    rows = (few + 0.1 * rng.standard_normal((_TOKENS, mixture.hidden))).astype(np.float32)
    scores = rng.random((_TOKENS, mixture.count)).astype(np.float32)
    if favoured is not None:
        scores[:, favoured] -= 2
    return rows, scores


def outputs(
    mixture: Mixture, expert: int, rows: NDArray[np.float32], read: Callable[[Matrix], NDArray[np.float32]]
) -> NDArray[np.float32]:
    up, down = (
        read(matrix).reshape(mixture.count, -1, matrix.num_inputs)[expert] for matrix in (mixture.up, mixture.down)
    )
    gate, value = rows @ up[0::2].T, rows @ up[1::2].T
    found: NDArray[np.float32] = (gate / (1 + np.exp(-gate)) * value) @ down.T
    return found


def test_a_mixture_names_the_values_that_it_depends_on(model: tuple[Path, DecoderSpec], mixture: Mixture) -> None:
    graph = ir.load(model[0] / "model.onnx").graph
    router = next(m for m in matrices_of(graph) if m.name == "layers.0/mlp/gate")
    assert (mixture.rows, mixture.chosen, mixture.count) == (router.input_name, 3, 8)
    assert (mixture.hidden, mixture.width) == (64, 32)
    assert [m.name for m in (mixture.up, mixture.down)] == ["layers.0/experts/up", "layers.0/experts/down"]


@pytest.mark.parametrize("bits", [4, 8])
def test_fitted_experts_err_less_on_their_tokens_than_rounded_ones(mixture: Mixture, bits: Bits) -> None:
    rows, scores = inputs(mixture)
    fitted = {
        id(matrix): next(found.stored()).dequantized()
        for matrix, found in zip((mixture.up, mixture.down), fit_experts(mixture, rows, scores, [bits]), strict=True)
    }
    best = np.argsort(-scores, axis=1)[:, : mixture.chosen]
    errors = {"fitted": 0.0, "rounded": 0.0}
    for expert in range(mixture.count):
        own = rows[(best == expert).any(axis=1)]
        exact = outputs(mixture, expert, own, lambda matrix: matrix.weight())
        ways = {
            "fitted": outputs(mixture, expert, own, lambda matrix: fitted[id(matrix)]),
            "rounded": outputs(
                mixture, expert, own, lambda matrix: round_to_nearest(matrix.view(), bits).dequantized()
            ),
        }
        for name, found in ways.items():
            errors[name] += float(np.square(found - exact).sum())
    assert errors["fitted"] < (0.7 if bits == 4 else 1.0) * errors["rounded"]


def test_an_expert_that_the_text_never_chooses_is_rounded_for_any_token(mixture: Mixture) -> None:
    rows, scores = inputs(mixture, favoured=5)
    up, down = fit_experts(mixture, rows, scores, [4])
    found = {id(m): next(f.stored()).dequantized() for m, f in zip((mixture.up, mixture.down), (up, down), strict=True)}
    exact = outputs(mixture, 5, rows, lambda matrix: matrix.weight())
    ways = [
        outputs(mixture, 5, rows, lambda matrix: found[id(matrix)]),
        outputs(mixture, 5, rows, lambda matrix: round_to_nearest(matrix.view(), 4).dequantized()),
    ]
    fitted, rounded = (float(np.square(way - exact).sum()) for way in ways)
    assert fitted < rounded


@pytest.mark.parametrize("bits", [4, 8])
def test_the_stored_experts_compute_what_their_codes_say(
    model: tuple[Path, DecoderSpec], tmp_path: Path, bits: Bits
) -> None:
    """The operator rounds activations to int8; against the same graph with dequantized floats it errs by no more."""
    graph = ir.load(model[0] / "model.onnx")
    stored: dict[str, QuantizedMatrix] = {}

    def quantize(matrix: Matrix) -> list[QuantizedMatrix]:
        found = stored[matrix.name] = round_to_nearest(matrix.view(), bits if matrix.is_experts else 8)
        return [found]

    save_graph(graph, tmp_path, quantize_graph(graph, quantize))
    dequantized = ir.load(model[0] / "model.onnx")
    for matrix in matrices_of(dequantized.graph):
        value, array = matrix.node.inputs[matrix.place], stored[matrix.name].dequantized()
        array = array.reshape(value.shape.numpy()) if matrix.is_experts else np.ascontiguousarray(array.T)
        value.const_value = ir.tensor(array, name=value.name)
    (tmp_path / "float").mkdir()
    save_graph(dequantized, tmp_path / "float")
    found, exact = (logits(folder) for folder in (tmp_path, tmp_path / "float"))
    assert np.abs(found - exact).mean() < 0.05 * exact.std()
    kinds = {node.op_type for node in ir.load(tmp_path / "model.onnx").graph}
    assert "QMoE" in kinds
    assert "MoE" not in kinds


def test_two_widths_in_one_layer_are_refused_by_name(model: tuple[Path, DecoderSpec]) -> None:
    graph = ir.load(model[0] / "model.onnx")

    def quantize(matrix: Matrix) -> list[QuantizedMatrix]:
        return [round_to_nearest(matrix.view(), 4 if matrix.name.endswith("experts/down") else 8)]

    with pytest.raises(QuantizeError, match=r"layers\.0/experts/up in 8 bits and layers\.0/experts/down in 4 bits"):
        quantize_graph(graph, quantize)


@pytest.mark.parametrize("bits", [5, 6])
def test_experts_in_a_width_that_their_operator_has_not_are_refused(
    model: tuple[Path, DecoderSpec], bits: Bits
) -> None:
    graph = ir.load(model[0] / "model.onnx")
    with pytest.raises(QuantizeError, match=rf"experts/up in {bits} bits: experts have 4 or 8"):
        quantize_graph(graph, lambda matrix: [round_to_nearest(matrix.view(), bits)])


def logits(folder: Path) -> NDArray[np.float32]:
    from quantize.evaluation.segments import feeds_of

    window = np.random.default_rng(0).integers(3, 320, 48)
    session = ort.InferenceSession(str(folder / "model.onnx"), session_options(1))
    feeds = {**feeds_of(folder, [window])[0], "logit_rows": np.arange(len(window))}
    found: NDArray[np.float32] = session.run(["logits"], feeds)[0]
    return found
