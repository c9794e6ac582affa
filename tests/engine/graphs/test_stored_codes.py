"""Codes in another order become the bytes that onnxruntime would make of them; nothing else of the graph changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from appliance.engine.graphs import stored_codes
from appliance.engine.graphs.onnx_proto import Message
from appliance.engine.graphs.stored_codes import fold_codes
from appliance.engine.runtime.model_file import load_bundle_graph
from appliance.errors import ModelError
from quantize.graph.codec import Bits, round_to_nearest
from tests.engine.graphs.stored_head import write_head

K, N = 96, 64


def write_planes(folder: Path, bits: Bits, *, with_table: bool) -> Path:
    """Write a head whose codes are not in tiles."""
    stored = round_to_nearest(np.random.default_rng(3).normal(size=(N, K)).astype(np.float32), bits)
    return write_head(folder / "bundle", stored, tiled=False, with_table=with_table)


@pytest.mark.parametrize("with_table", [True, False])
@pytest.mark.parametrize("bits", [5, 6])
def test_the_joined_graph_gives_the_same_bits(tmp_path: Path, bits: Bits, *, with_table: bool) -> None:
    path = write_planes(tmp_path, bits, with_table=with_table)
    feeds = {"x": np.random.default_rng(4).normal(size=(5, K)).astype(np.float32), "ids": np.arange(5)}
    plain = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)
    joined = load_bundle_graph(path, path.parent, ort.SessionOptions(), ["CPUExecutionProvider"]).run(None, feeds)
    assert [value.tobytes() for value in plain] == [value.tobytes() for value in joined]


def test_no_node_is_left_that_joins_planes(tmp_path: Path) -> None:
    path = write_planes(tmp_path, 5, with_table=True)
    found = fold_codes(path.read_bytes(), path.parent)
    assert found is not None
    model, joined = onnx.load_from_string(found[0]), found[1]
    assert {node.op_type for node in model.graph.node} == {
        "Cast",
        "Mul",
        "MatMulNBits",
        "GatherBlockQuantized",
        "Identity",
    }
    assert {name: codes.shape for name, codes in joined.items()} == {
        "head.codes": (N, K // 32, 32),
        "embed.codes": (N, K),
    }
    assert all(not (codes & 7).any() for codes in joined.values())
    assert np.shares_memory(joined["head.codes"], joined["embed.codes"])  # one copy in memory


def test_joined_planes_may_lie_in_a_file_that_goes_with_them(tmp_path: Path) -> None:
    path = write_planes(tmp_path, 6, with_table=True)
    (scratch := tmp_path / "scratch").mkdir()
    plain, mapped = (fold_codes(path.read_bytes(), path.parent, place) for place in (None, scratch))
    assert plain is not None
    assert mapped is not None
    assert plain[0] == mapped[0]
    for name, codes in mapped[1].items():
        assert np.array_equal(codes, plain[1][name])
        assert not codes.flags.writeable
    assert np.shares_memory(mapped[1]["head.codes"], mapped[1]["embed.codes"])
    assert list(scratch.iterdir()) == []
    feeds = {"x": np.ones((2, K), np.float32), "ids": np.arange(2)}
    found = [
        load_bundle_graph(path, path.parent, ort.SessionOptions(), ["CPUExecutionProvider"], scratch=place).run(
            None, feeds
        )
        for place in (None, scratch)
    ]
    assert [value.tobytes() for value in found[0]] == [value.tobytes() for value in found[1]]


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("bits", [4, 5, 6, 8])
def test_rows_are_put_in_order_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: Bits, *, tiled: bool
) -> None:
    stored = round_to_nearest(np.random.default_rng(5).normal(size=(16 * 7, K)).astype(np.float32), bits)
    path = write_head(tmp_path / "head", stored, tiled=tiled)
    whole = fold_codes(path.read_bytes(), path.parent)
    sizes = list[int]()
    take = stored_codes._compute
    monkeypatch.setattr(stored_codes, "_ROWS_BYTES", 3 * 16 * K)

    def computed(node: Message, given: list[NDArray[np.generic]], part: stored_codes.Part | None) -> Any:
        value = take(node, given, part)
        sizes.append(value.size)
        return value

    monkeypatch.setattr(stored_codes, "_compute", computed)
    by_rows = fold_codes(path.read_bytes(), path.parent)
    if whole is None or by_rows is None:
        assert (whole, by_rows, tiled) == (None, None, False)
        return
    assert whole[0] == by_rows[0]
    assert {name: value.tobytes() for name, value in whole[1].items()} == {
        name: value.tobytes() for name, value in by_rows[1].items()
    }
    assert min(sizes) < stored.codes.size // 2


def test_rows_that_are_mixed_are_taken_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_codes, "_ROWS_BYTES", 64)
    random = np.random.default_rng(6)
    codes = random.integers(0, 256, (64, 32), np.uint8)
    nodes = [
        helper.make_node("Transpose", ["codes"], ["turned"], perm=[1, 0]),
        helper.make_node("BitwiseXor", ["turned", "sign"], ["c"]),
        helper.make_node("BitwiseAnd", ["c", "x"], ["y"]),
    ]
    model = onnx.load_from_string(_model(nodes, codes=codes, sign=np.array(128, np.uint8)))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=64)
    found = fold_codes(path.read_bytes(), path.parent)
    assert found is not None
    assert np.array_equal(found[1]["c"], codes.T ^ 128)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_graph_without_planes_is_loaded_as_it_is(tmp_path: Path, bits: Bits) -> None:
    assert fold_codes(write_planes(tmp_path, bits, with_table=True).read_bytes(), tmp_path) is None


def _model(nodes: list[onnx.NodeProto], **constants: np.ndarray) -> bytes:
    outputs = [helper.make_tensor_value_info("y", TensorProto.UINT8, None)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, None)]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())


def test_what_depends_on_an_input_stays(tmp_path: Path) -> None:
    model = _model([helper.make_node("BitwiseOr", ["x", "a"], ["y"])], a=np.ones(4, np.uint8))
    assert fold_codes(model, tmp_path) is None


def test_planes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("BitwiseOr", ["a", "b"], ["c"]), helper.make_node("BitwiseAnd", ["c", "x"], ["y"])]
    model = _model(nodes, a=np.ones(4, np.uint8), b=np.ones(3, np.uint8))
    with pytest.raises(ModelError, match="the codes of c do not fit"):
        fold_codes(model, tmp_path)
    floats = _model(nodes, a=np.ones(4, np.float32), b=np.ones(4, np.float32))
    with pytest.raises(ModelError, match="the codes of c do not fit"):
        fold_codes(floats, tmp_path)
    wide = _model(nodes, a=np.ones(4, np.int32), b=np.ones(4, np.int32))
    with pytest.raises(ModelError, match="the codes of c are not bytes"):
        fold_codes(wide, tmp_path)
