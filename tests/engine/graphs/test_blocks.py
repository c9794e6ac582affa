"""Graphs with products of Lantern's kernels: the same results from weights that lie packed in one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from appliance.engine.graphs.blocks import write_block_products
from appliance.engine.graphs.prompt import int8_product_bytes
from appliance.engine.kernels import KernelLibrary
from appliance.engine.runtime.kernel_trial import packing
from appliance.errors import ModelError

K, N, VOCABULARY, BLOCK = 64, 96, 128, 32
Arrays = dict[str, NDArray[np.generic]]


def pack_nothing(*_: object) -> tuple[NDArray[np.uint8], int]:
    return np.zeros(64, np.uint8), 4


def product(inputs: list[str], output: str, num_inputs: int, num_outputs: int, **changes: int) -> onnx.NodeProto:
    sizes = {"K": num_inputs, "N": num_outputs, "bits": 4, "block_size": BLOCK, "accuracy_level": 4, **changes}
    return helper.make_node("MatMulNBits", inputs, [output], domain="com.microsoft", **sizes)


def write_model(folder: Path, nodes: list[onnx.NodeProto], arrays: Arrays) -> Path:
    """Write a graph from x (S, K) to y and logits, its weights in a file of their own."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, K])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "logits")],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    path = folder / "stored.onnx"
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save(model, path, save_as_external_data=True, location="stored.bin", size_threshold=512)
    return path


def two_products(folder: Path, *, head_bits: int = 8, **changes: int) -> Path:
    """A product with zero points and a bias, and two that share the weights of the head: the upper bits of 8."""
    random = np.random.default_rng(3)
    arrays: Arrays = {
        "codes": random.integers(0, 256, (N, K // BLOCK, BLOCK // 2), np.uint8),
        "scales": random.uniform(0.01, 0.05, N * K // BLOCK).astype(np.float32),
        "zeros": random.integers(0, 256, N * K // BLOCK // 2, np.uint8),
        "bias": random.standard_normal(N).astype(np.float32),
        "head": random.integers(0, 256, (VOCABULARY, N // BLOCK, BLOCK), np.uint8) & np.uint8(256 - (256 >> head_bits)),
        "head_scales": random.uniform(0.01, 0.05, VOCABULARY * N // BLOCK).astype(np.float32),
    }
    nodes = [
        product(["x", "codes", "scales", "zeros", "", "bias"], "y", K, N, **changes),
        product(["y", "head", "head_scales"], "logits.0", N, VOCABULARY, bits=8),
        product(["y", "head", "head_scales"], "logits.1", N, VOCABULARY, bits=8),
        helper.make_node("Add", ["logits.0", "logits.1"], ["logits"]),
    ]
    return write_model(folder, nodes, arrays)


def run(path: Path, library: KernelLibrary, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    options = ort.SessionOptions()
    library.register(options)
    found = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    return [np.asarray(value, np.float32) for value in found]


@pytest.mark.slow
@pytest.mark.parametrize("head_bits", [5, 6, 8])
def test_the_packed_products_compute_what_the_stored_ones_do(
    library: KernelLibrary, tmp_path: Path, head_bits: int
) -> None:
    stored = two_products(tmp_path, head_bits=head_bits)
    write_block_products(stored, tmp_path / "model.onnx", "weights.bin", packing(library))
    x = np.random.default_rng(4).standard_normal((7, K)).astype(np.float32)
    for name in ("stored.onnx", "stored.bin"):
        (tmp_path / name).rename(tmp_path / f"kept.{name}")
    found = run(tmp_path / "model.onnx", library, x)  # reads nothing of the stored ones
    for name in ("stored.onnx", "stored.bin"):
        (tmp_path / f"kept.{name}").rename(tmp_path / name)
    for stock, ours in zip(run(stored, library, x), found, strict=True):
        assert np.linalg.norm(ours - stock) < 0.02 * np.linalg.norm(stock)


def test_each_weight_is_in_the_file_once_and_where_it_can_be_mapped(tmp_path: Path) -> None:
    stored = two_products(tmp_path)
    write_block_products(stored, tmp_path / "model.onnx", "weights.bin", pack_nothing)
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    assert [node.op_type for node in model.graph.node] == ["MatMulBlocks", "Add", "MatMulBlocks", "MatMulBlocks", "Add"]
    names = [tensor.name for tensor in model.graph.initializer]
    assert sorted(names) == ["bias", "codes/packed", "head/packed"]
    for tensor in model.graph.initializer:
        if tensor.name != "bias":  # small, and so in the graph
            place = {entry.key: entry.value for entry in tensor.external_data}
            assert (place["location"], int(place["offset"]) % 64) == ("weights.bin", 0)
    assert (tmp_path / "weights.bin").stat().st_size == 2 * 64


@pytest.mark.parametrize("changes", [{"bits": 2}, {"block_size": 16}, {"accuracy_level": 0}, {"accuracy_level": 1}])
def test_a_product_that_the_library_does_not_compute_is_refused_by_name(
    tmp_path: Path, changes: dict[str, int]
) -> None:
    stored = two_products(tmp_path, **changes)
    with pytest.raises(ModelError, match="form that the library does not compute"):
        write_block_products(stored, tmp_path / "model.onnx", "weights.bin", pack_nothing)


def test_a_graph_without_stored_products_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Relu", ["y"], ["logits"])]
    stored = write_model(tmp_path, nodes, {})
    with pytest.raises(ModelError, match="no product"):
        write_block_products(stored, tmp_path / "model.onnx", "weights.bin", pack_nothing)


def test_the_same_products_get_int8_weights_for_prompts(tmp_path: Path) -> None:
    stored = two_products(tmp_path)
    write_block_products(stored, tmp_path / "model.onnx", "weights.bin", pack_nothing)
    assert int8_product_bytes(stored.read_bytes()) == K * N
    assert int8_product_bytes((tmp_path / "model.onnx").read_bytes()) == K * N


def with_table(folder: Path, *, is_head: bool, bits: int) -> Path:
    """A table of embeddings in front of a head of the same codes, or of others; they use the upper bits of 8."""
    random = np.random.default_rng(5)
    codes = random.integers(0, 256, (VOCABULARY, K), np.uint8) & np.uint8(256 - (256 >> bits))
    scales = random.uniform(0.01, 0.05, (VOCABULARY, K // BLOCK)).astype(np.float32)
    head = codes if is_head else codes[::-1]
    arrays: Arrays = {
        "table": codes,
        "table_scales": scales,
        "head": np.ascontiguousarray(head).reshape(VOCABULARY, K // BLOCK, BLOCK),
        "head_scales": scales.reshape(-1).copy(),
        "ids": np.array([[3, -1, 0], [127, 64, 15]], np.int64),
    }
    nodes = [
        helper.make_node(
            "GatherBlockQuantized",
            ["table", "ids", "table_scales"],
            ["y"],
            domain="com.microsoft",
            bits=8,
            block_size=BLOCK,
            gather_axis=0,
            quantize_axis=1,
        ),
        product(["x", "head", "head_scales"], "logits", K, VOCABULARY, bits=8),
    ]
    return write_model(folder, nodes, arrays)


@pytest.mark.slow
@pytest.mark.parametrize(("is_head", "bits"), [(True, 8), (False, 8), (True, 6), (True, 5)])
def test_a_table_that_is_the_head_is_read_from_the_head_s_weights(
    library: KernelLibrary, tmp_path: Path, *, is_head: bool, bits: int
) -> None:
    stored = with_table(tmp_path, is_head=is_head, bits=bits)
    write_block_products(stored, tmp_path / "model.onnx", "weights.bin", packing(library))
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    names = {tensor.name for tensor in model.graph.initializer}
    assert model.graph.node[0].op_type == ("GatherBlocks" if is_head else "GatherBlockQuantized")
    assert ("table" in names) is not is_head
    x = np.zeros((1, K), np.float32)
    expected, found = run(stored, library, x)[0], run(tmp_path / "model.onnx", library, x)[0]
    assert expected.shape == (2, 3, K)
    assert expected.tobytes() == found.tobytes()
