"""The arithmetic of other processors: the emulation equals the real products here, and a reference for the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from appliance.bundle.targets import Arithmetic
from appliance.engine.runtime.provider import session_options
from appliance.host.processor import processor_kind
from quantize.evaluation.arithmetic import round_activations, write_with_arithmetic
from quantize.graph import nbits
from quantize.graph.codec import Bits, QuantizedMatrix, round_to_nearest
from quantize.graph.edit import Editor, new_input

_RNG = np.random.default_rng(7)
_FORMS: list[tuple[Bits, int]] = [(4, 96), (8, 96), (4, 80), (8, 80)]

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Case:
    stored: QuantizedMatrix
    x: Rows


def case(bits: Bits, num_inputs: int) -> Case:
    weight = _RNG.standard_normal((48, num_inputs)).astype(np.float32)
    x = _RNG.standard_normal((1, 5, num_inputs)).astype(np.float32) * np.float32(3)
    x[0, 1] = 0
    x[0, 2] += 4  # no sign changes: the zero point lies at an end of the codes
    x[0, 3, 7] = 90
    return Case(round_to_nearest(weight, bits), x)


def model_of(stored: QuantizedMatrix, *, is_head: bool = False) -> ir.Model:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18, "com.microsoft": 1}, name="product")
    edit = Editor(graph)
    x = new_input("x", ir.DataType.FLOAT, [*(["rows"] if is_head else [1, "tokens"]), stored.num_inputs])
    graph.inputs.append(x)
    last = edit.node("Identity", [x], "same")
    product, _ = nbits.product(edit, last, stored, "w", "y", before=None)
    product.type = ir.TensorType(ir.DataType.FLOAT)
    graph.outputs.append(product)
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model, x: Rows) -> Rows:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), session_options(1))
    return np.asarray(session.run(["y"], {"x": x})[0])


def emulated(case: Case, arithmetic: Arithmetic) -> Rows:
    model = model_of(case.stored)
    round_activations(model, arithmetic)
    return run(model, case.x)


@pytest.mark.skipif(processor_kind() != "x86", reason="onnxruntime computes with blocks on x86")
@pytest.mark.parametrize(("bits", "num_inputs"), _FORMS)
def test_blocks_are_what_this_processor_computes(bits: Bits, num_inputs: int) -> None:
    found = case(bits, num_inputs)
    real = run(model_of(found.stored), found.x)
    np.testing.assert_allclose(emulated(found, "blocks"), real, rtol=1e-4, atol=1e-3)
    assert np.abs(emulated(found, "floats") - real).max() > 0.02


@pytest.mark.parametrize("arithmetic", ["blocks", "rows"])
@pytest.mark.parametrize(("bits", "num_inputs"), _FORMS)
def test_the_head_has_rows_without_a_batch(bits: Bits, num_inputs: int, arithmetic: Arithmetic) -> None:
    found = case(bits, num_inputs)
    model = model_of(found.stored, is_head=True)
    round_activations(model, arithmetic)
    assert np.array_equal(run(model, found.x[0]), emulated(found, arithmetic)[0])


@pytest.mark.parametrize(("bits", "num_inputs"), _FORMS)
def test_floats_are_the_plain_product(bits: Bits, num_inputs: int) -> None:
    found = case(bits, num_inputs)
    wanted = found.x @ found.stored.dequantized().T
    np.testing.assert_allclose(emulated(found, "floats"), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("num_inputs", [96, 80])
def test_four_bits_have_one_scale_a_row_and_short_scales_of_weights(num_inputs: int) -> None:
    found = case(4, num_inputs)
    levels = found.stored.codes.astype(np.float64) - 8
    weights = (levels * np.repeat(shortened(found.stored.scales), 32, axis=1))[:, :num_inputs]
    wanted = rounded_rows(found.x[0]) @ weights.T
    np.testing.assert_allclose(emulated(found, "rows")[0], wanted, rtol=1e-4, atol=1e-3)


def test_eight_bits_have_blocks_among_rows_as_well() -> None:
    found = case(8, 96)
    assert np.array_equal(emulated(found, "rows"), emulated(found, "blocks"))


def test_the_graph_of_a_folder_is_rounded_for_the_same_data_file(tmp_path: Path) -> None:
    for name in ("bundle", "other"):
        (tmp_path / name).mkdir()
    ir.save(model_of(case(4, 96).stored), tmp_path / "bundle/model.onnx", external_data="model.onnx.data")
    write_with_arithmetic(tmp_path / "bundle", tmp_path / "other", "rows")
    x = case(4, 96).x
    plain, other = (
        ort.InferenceSession(str(tmp_path / name / "model.onnx"), session_options(1)).run(["y"], {"x": x})[0]
        for name in ("bundle", "other")
    )
    assert 0 < np.abs(plain - other).max() < 5


def shortened(scales: Rows) -> NDArray[np.float64]:
    """Return scales with the eight leading bits of their mantissa."""
    mantissas, exponents = np.frexp(scales.astype(np.float64))
    return np.asarray(np.trunc(mantissas * 256) / 256 * 2.0**exponents)


def rounded_rows(x: Rows) -> NDArray[np.float64]:
    """Return rows as codes of one byte hold them, by a loop over each."""
    found = np.empty(x.shape)
    for at, row in enumerate(x.astype(np.float64)):
        low, high = min(0.0, row.min()), max(0.0, row.max())
        step = (high - low) / 255 or 1.0
        zero = min(max(round(-128 - low / step), -128), 127)
        codes = np.clip(np.rint(row / step) + zero, -128, 127)
        found[at] = (codes - zero) * step
    return found
