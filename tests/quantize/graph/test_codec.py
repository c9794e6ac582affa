"""The file, `dequantized` and onnxruntime's kernels have the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from appliance.engine.runtime.provider import session_options
from quantize.graph import nbits
from quantize.graph.codec import BLOCK, KERNEL_BITS, Bits, QuantizedMatrix, from_planes, matrix_bytes, round_to_nearest
from quantize.graph.edit import MICROSOFT, Editor, new_input

_BITS: tuple[Bits, ...] = (4, 5, 6, 8)


@pytest.mark.parametrize("bits", _BITS)
@pytest.mark.parametrize("num_inputs", [64, 80])
def test_the_kernel_multiplies_with_the_dequantized_matrix(bits: Bits, num_inputs: int) -> None:
    rng = np.random.default_rng(0)
    stored = round_to_nearest(rng.standard_normal((48, num_inputs)).astype(np.float32), bits)
    x = rng.standard_normal((5, num_inputs)).astype(np.float32)
    got = kernel_product(stored, x, accuracy_level=0)
    np.testing.assert_allclose(got, x @ stored.dequantized().T, atol=1e-4)


@pytest.mark.parametrize("bits", _BITS)
def test_rounding_errs_by_half_a_step_at_most_where_nothing_is_clipped(bits: Bits) -> None:
    weight = np.random.default_rng(1).standard_normal((16, 64)).astype(np.float32)
    stored = round_to_nearest(weight, 8)
    step = np.repeat(np.abs(stored.scales), BLOCK, axis=1)
    assert (np.abs(stored.dequantized() - weight) <= 0.51 * step).all()
    assert np.square(round_to_nearest(weight, bits).dequantized() - weight).mean() < 0.02


def test_a_matrix_of_zeros_stays_zero() -> None:
    for bits in _BITS:
        assert not round_to_nearest(np.zeros((4, 64), np.float32), bits).dequantized().any()


@pytest.mark.parametrize("bits", _BITS)
def test_a_tall_matrix_that_lies_transposed_in_a_file_is_rounded_row_by_row_alike(bits: Bits, tmp_path: Path) -> None:
    weight = np.random.default_rng(4).standard_normal((9000, 40)).astype(np.float32)
    np.save(tmp_path / "weight.npy", weight.T)
    whole = round_to_nearest(np.load(tmp_path / "weight.npy", mmap_mode="r").T, bits)
    assert whole.num_inputs == 40
    for first in (0, 4000, 8192, 8999):
        alone, there = round_to_nearest(weight[first : first + 1], bits), whole.rows(slice(first, first + 1))
        for name in ("codes", "steps", "units"):
            assert np.array_equal(getattr(alone, name), getattr(there, name))


def test_planes_give_the_codes_back() -> None:
    widths: tuple[Bits, ...] = (5, 6)
    for bits in widths:
        stored = round_to_nearest(np.random.default_rng(2).standard_normal((6, 80)).astype(np.float32), bits)
        assert np.array_equal(from_planes(*stored.planes(), bits), stored.codes)


def test_the_size_is_known_beforehand() -> None:
    for bits in _BITS:
        stored = round_to_nearest(np.ones((6, 80), np.float32), bits)
        codes = [stored.packed()] if bits in KERNEL_BITS else stored.planes()
        assert (
            matrix_bytes(6, 80, bits) == sum(part.nbytes for part in codes) + stored.steps.nbytes + stored.units.nbytes
        )


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_are_looked_up_as_they_were_stored(bits: Bits) -> None:
    stored = round_to_nearest(np.random.default_rng(3).standard_normal((20, 64)).astype(np.float32), bits)
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18, MICROSOFT: 1}, name="lookup")
    edit = Editor(graph)
    ids = new_input("ids", ir.DataType.INT64, ["tokens"])
    graph.inputs.append(ids)
    last = edit.node("Identity", [ids], "same")
    table = nbits.rows_of(edit, "embed", stored, None, graph[0])
    rows = nbits.lookup(edit, table, last, nbits.scales(edit, "embed", stored), stored, "rows")
    rows.type = ir.TensorType(ir.DataType.FLOAT)
    graph.outputs.append(rows)
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    wanted = np.array([3, 0, 19], np.int64)
    found = ort.InferenceSession(model, session_options(1)).run(["rows"], {"ids": wanted})[0]
    np.testing.assert_allclose(found, stored.dequantized()[wanted], rtol=1e-6)


def kernel_product(stored: QuantizedMatrix, x: np.ndarray, *, accuracy_level: int) -> np.ndarray:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18, MICROSOFT: 1}, name="product")
    edit = Editor(graph)
    rows = new_input("x", ir.DataType.FLOAT, ["rows", stored.num_inputs])
    graph.inputs.append(rows)
    product = edit.node(
        "MatMulNBits",
        [rows, nbits.codes(edit, "w", stored), nbits.scales(edit, "w", stored)],
        "y",
        domain=MICROSOFT,
        K=stored.num_inputs,
        N=stored.num_outputs,
        bits=4 if stored.bits == 4 else 8,
        block_size=BLOCK,
        accuracy_level=accuracy_level,
    )
    product.type = ir.TensorType(ir.DataType.FLOAT)
    graph.outputs.append(product)
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    return np.asarray(ort.InferenceSession(model, session_options(1)).run(["y"], {"x": x})[0])
