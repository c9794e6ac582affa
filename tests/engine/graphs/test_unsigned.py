"""Products of int8 weights made of uint8 ones: every sum is the exact one, on every processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from appliance.engine.graphs.unsigned import unsigned_products
from appliance.engine.runtime.model_file import load_bundle_graph
from appliance.engine.runtime.product import int8_products_are_exact
from appliance.errors import ModelError

K, N = 70, 24
CPU = ["CPUExecutionProvider"]
OPERATORS = ["MatMulInteger", "MatMulIntegerToFloat"]
LARGE = np.where(np.arange(K)[:, None] % 4 < 2, 127, -128).astype(np.int8).repeat(N, 1)  # neighbours of one sign
RANDOM = np.random.default_rng(1).integers(-128, 128, (K, N)).astype(np.int8)
ROWS = np.random.default_rng(2).integers(100, 256, (7, K)).astype(np.uint8)


def write_product(
    folder: Path,
    operator: str,
    codes: NDArray[np.int8],
    zero_points: NDArray[np.int8] | None = None,
    *,
    is_external: bool = False,
) -> Path:
    """Write a graph from x (S, K) uint8 to y = (x - 128) (codes - zero points), twice over the same codes."""
    is_scaled = operator == "MatMulIntegerToFloat"
    constants: dict[str, Any] = {"codes": codes, "middle": np.uint8(128), "one": np.float32(1)}
    if zero_points is not None:
        constants["zero_points"] = zero_points
    names = ["x", "codes", *(["one", "one"] if is_scaled else []), "middle"]
    names += ["zero_points"] if zero_points is not None else []
    domain = "com.microsoft" if is_scaled else ""
    nodes = [helper.make_node(operator, names, [name], name=name, domain=domain) for name in ("y", "again")]
    kind = TensorProto.FLOAT if is_scaled else TensorProto.INT32
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["S", K])],
        [helper.make_tensor_value_info(name, kind, ["S", N]) for name in ("y", "again")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, ir_version=10, opset_imports=opsets)
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=is_external, location="model.onnx.data", size_threshold=64)
    return path


def exact(codes: NDArray[np.int8], zero_points: NDArray[np.int8] | None) -> NDArray[np.int64]:
    weights = codes.astype(np.int64) - (0 if zero_points is None else zero_points.astype(np.int64))
    return np.asarray((ROWS.astype(np.int64) - 128) @ weights)


@pytest.mark.parametrize("is_external", [False, True])
@pytest.mark.parametrize("zero_points", [None, np.int8(-3), np.arange(N).astype(np.int8)], ids=["none", "one", "each"])
@pytest.mark.parametrize("codes", [LARGE, RANDOM], ids=["large", "random"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_sum_is_exact(
    tmp_path: Path,
    operator: str,
    codes: NDArray[np.int8],
    zero_points: NDArray[np.int8] | None,
    *,
    is_external: bool,
) -> None:
    path = write_product(tmp_path, operator, codes, zero_points, is_external=is_external)
    found = unsigned_products(path.read_bytes(), tmp_path)
    assert found is not None
    options = ort.SessionOptions()
    options.add_external_initializers(list(found[1]), [ort.OrtValue.ortvalue_from_numpy(v) for v in found[1].values()])
    for value in ort.InferenceSession(found[0], options, providers=CPU).run(None, {"x": ROWS}):
        np.testing.assert_array_equal(value, exact(codes, zero_points))


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_graph_is_loaded_so_that_its_sums_are_exact_here(tmp_path: Path, operator: str) -> None:
    path = write_product(tmp_path, operator, LARGE, is_external=True)
    (tmp_path / "scratch").mkdir()
    for scratch in (None, tmp_path / "scratch"):
        session = load_bundle_graph(path, tmp_path, ort.SessionOptions(), CPU, scratch=scratch)
        np.testing.assert_array_equal(session.run(None, {"x": ROWS})[0], exact(LARGE, None))
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.skipif(int8_products_are_exact(), reason="this processor adds them exactly")
def test_onnxruntime_alone_saturates_here(tmp_path: Path) -> None:
    path = write_product(tmp_path, "MatMulInteger", LARGE)
    [found, _] = ort.InferenceSession(str(path), providers=CPU).run(None, {"x": ROWS})
    assert not np.array_equal(found, exact(LARGE, None))


def test_the_codes_that_two_products_read_are_there_once(tmp_path: Path) -> None:
    found = unsigned_products(write_product(tmp_path, "MatMulInteger", RANDOM).read_bytes(), tmp_path)
    assert found is not None
    assert {name: (value.shape, value.dtype) for name, value in found[1].items()} == {
        "codes_unsigned": ((K, N), np.dtype(np.uint8))
    }
    assert "codes" not in {tensor.name for tensor in onnx.load_from_string(found[0]).graph.initializer}


def test_zero_points_that_are_no_constant_are_refused_by_name(tmp_path: Path) -> None:
    path = write_product(tmp_path, "MatMulInteger", RANDOM, np.arange(N).astype(np.int8))
    model = onnx.load(path)
    kept = [tensor for tensor in model.graph.initializer if tensor.name != "zero_points"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    with pytest.raises(ModelError, match="zero_points of codes are no constant"):
        unsigned_products(model.SerializeToString(), tmp_path)


def test_a_graph_without_such_products_stays_as_it_is(tmp_path: Path) -> None:
    path = write_product(tmp_path, "MatMulInteger", RANDOM)
    found = unsigned_products(path.read_bytes(), tmp_path)
    assert found is not None
    assert unsigned_products(found[0], tmp_path) is None
