"""Prompts by int8 products of their own: nearly what the stored weights say, and the same bits however they are cut."""

from __future__ import annotations

import errno
import itertools
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from appliance.bundle import BundleStore, DecoderSpec, TrustedKeys
from appliance.engine.graphs.prompt import (
    int8_product_bytes,
    with_int8_products,
    write_int8_products,
)
from appliance.engine.runtime import preparation as making
from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.prepacked import prepacked
from appliance.engine.runtime.product import int8_products_are_exact
from appliance.engine.sampler import log_softmax
from appliance.engine.types import StepPlan, StepVariant
from appliance.errors import ModelError
from appliance.home import Home
from appliance.host.processor import ProcessorKind
from appliance.text.tokenizer import Tokenizer

K, N, BLOCK = 64, 96, 32
PROMPT = (
    "The lighthouse keeper wrote down the weather every evening: wind, rain, the height of the waves, and whether the "
    "mail boat had come. When the storm broke the lamp, he lit a fire on the rocks and kept it burning until morning. "
    "In the spring a new lamp arrived by ship, and with it a letter that asked who had kept the fire, and why."
)

needs_exact_products = pytest.mark.skipif(not int8_products_are_exact(), reason="this processor saturates int8 sums")


def a_graph(folder: Path, weights: dict[str, NDArray[np.generic]], *, bits: int, bias: bool) -> bytes:
    """x (1, S, K) -> a stored product -> a stored product that gives logits."""
    inputs = ["codes", "scales", "zero_points" if "zero_points" in weights else "", "", "bias" if bias else ""]
    attributes = {"K": K, "N": N, "bits": bits, "block_size": BLOCK, "accuracy_level": 4}
    nodes = [
        helper.make_node("MatMulNBits", ["x", *inputs], ["y"], domain="com.microsoft", **attributes),
        helper.make_node(
            "MatMulNBits",
            ["y", "head_codes", "head_scales"],
            ["logits"],
            domain="com.microsoft",
            **{**attributes, "K": N},
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, None, K])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("logits", "y")],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save(model, folder / "model.onnx")
    return bytes(model.SerializeToString())


def stored(bits: int, *, symmetric: bool, bias: bool) -> tuple[dict[str, NDArray[np.generic]], NDArray[np.float32]]:
    """A product's initializers as the operator wants them, and the weights (K, N) that they stand for."""
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 1 << bits, (N, K), dtype=np.uint8)
    scales = rng.uniform(0.01, 0.05, (N, K // BLOCK)).astype(np.float32)
    zeros = np.full((N, K // BLOCK), 1 << bits - 1, np.uint8)
    if not symmetric:
        zeros = rng.integers(0, 1 << bits, zeros.shape, dtype=np.uint8)
    weights = (codes.astype(np.float32) - zeros.repeat(BLOCK, 1)) * scales.repeat(BLOCK, 1)

    def packed(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return values if bits == 8 else values[:, ::2] | np.left_shift(values[:, 1::2], 4, dtype=np.uint8)

    found: dict[str, NDArray[np.generic]] = {
        "codes": packed(codes).reshape(N, K // BLOCK, -1),
        "scales": scales.reshape(-1),
        "head_codes": rng.integers(0, 255, (N, N // BLOCK, BLOCK * bits // 8), dtype=np.uint8),
        "head_scales": np.full(N * N // BLOCK, 0.01, np.float32),
    }
    if not symmetric:
        found["zero_points"] = packed(zeros).reshape(-1)
    if bias:
        found["bias"] = rng.standard_normal(N).astype(np.float32)
    return found, weights.T


@needs_exact_products
@pytest.mark.parametrize(("bits", "symmetric", "bias"), [(4, True, False), (4, False, True), (8, True, True)])
def test_each_form_of_stored_weights_is_multiplied_as_int8(
    tmp_path: Path, bits: int, symmetric: bool, bias: bool
) -> None:
    initializers, weights = stored(bits, symmetric=symmetric, bias=bias)
    model = a_graph(tmp_path, initializers, bits=bits, bias=bias)
    write_int8_products(tmp_path / "model.onnx", tmp_path / "products.onnx")
    folder = ort.SessionOptions()
    folder.add_session_config_entry("session.model_external_initializers_file_folder_path", str(tmp_path))
    edited = with_int8_products(model, (tmp_path / "products.onnx").read_bytes())
    session = ort.InferenceSession(edited, folder, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(9).standard_normal((1, 5, K)).astype(np.float32)
    [found] = session.run(["y"], {"x": x})
    x_steps = np.abs(x[0]).max(axis=1, keepdims=True) / 127
    w_steps = np.abs(weights).max(axis=0) / 127
    expected = (np.rint(x[0] / x_steps) @ np.rint(weights / w_steps)) * w_steps * x_steps
    assert np.allclose(found[0], expected + initializers.get("bias", 0), atol=1e-4)
    assert not np.allclose(found[0], x[0] @ weights + initializers.get("bias", 0), atol=1e-4)


def test_the_head_keeps_its_weights_and_needs_no_memory(tmp_path: Path) -> None:
    initializers, _ = stored(4, symmetric=True, bias=False)
    assert int8_product_bytes(a_graph(tmp_path, initializers, bits=4, bias=False)) == K * N


def test_attention_s_inputs_and_what_narrows_keep_their_weights() -> None:
    def product(x: str, y: str, num_inputs: int, num_outputs: int) -> onnx.NodeProto:
        sizes = {"K": num_inputs, "N": num_outputs, "bits": 4, "block_size": 32}
        return helper.make_node("MatMulNBits", [x, "codes", "scales"], [y], domain="com.microsoft", **sizes)

    nodes = [
        product("x", "qkv", 64, 192),
        helper.make_node("Split", ["qkv"], ["q", "k", "v"]),
        helper.make_node("SimplifiedLayerNormalization", ["q", "weight"], ["normed"]),
        helper.make_node("GroupQueryAttention", ["normed", "k", "v"], ["attended"], domain="com.microsoft"),
        product("attended", "o", 64, 64),
        helper.make_node(
            "SkipSimplifiedLayerNormalization", ["x", "o", "weight"], ["h", "", "", "sum"], domain="com.microsoft"
        ),
        product("h", "up", 64, 128),
        product("up", "down", 128, 64),
        product("down", "logits", 64, 320),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], []))
    assert int8_product_bytes(model.SerializeToString()) == 64 * 64 + 64 * 128


def test_a_graph_without_stored_products_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["logits"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "logits")]
    onnx.save(helper.make_model(helper.make_graph([node], "g", values[:1], values[1:])), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="no stored products"):
        write_int8_products(tmp_path / "model.onnx", tmp_path / "products.onnx")
    assert int8_product_bytes((tmp_path / "model.onnx").read_bytes()) == 0
    assert int8_product_bytes(b"weights") == 0


@pytest.fixture(scope="module")
def runner(starter_home: Home) -> OrtModelRunner:
    bundle = BundleStore(starter_home.bundles, TrustedKeys.load(starter_home.trusted_keys)).open(
        "smollm2-135m-instruct"
    )
    spec = bundle.manifest.model
    assert isinstance(spec, DecoderSpec)
    file = prepacked(bundle, starter_home.prepacked)
    if file.prompt_session(1, spinning=False) is None:
        pytest.skip("on this processor prompts are no faster with products of their own")
    return OrtModelRunner(file, spec, num_slots=3, capacity=256, num_threads=2)


@pytest.fixture(scope="module")
def tokens(starter_home: Home) -> list[int]:

    path = starter_home.bundles / "smollm2-135m-instruct" / "active" / "tokenizer.json"
    return list(Tokenizer.from_file(path).encode(PROMPT))


def run(runner: OrtModelRunner, row: int, start: int, tokens: list[int], variant: StepVariant) -> NDArray[np.float32]:
    ids = np.array([tokens], np.int64)
    return runner.run(StepPlan(row, ids, np.array([start], np.int32), np.arange(len(tokens)), variant)).copy()


def test_a_prompt_gives_the_same_bits_however_it_is_cut(runner: OrtModelRunner, tokens: list[int]) -> None:
    whole = run(runner, 0, 0, tokens, "prompt")
    cuts = [0, 2, 19, 40, len(tokens)]
    pieces = [run(runner, 1, a, tokens[a:b], "prompt") for a, b in itertools.pairwise(cuts)]
    assert np.array_equal(whole, np.concatenate(pieces))
    first, second = [run(runner, row, len(tokens), tokens[:1], "answer") for row in (0, 1)]
    assert np.array_equal(first, second)


def test_an_answer_after_a_fast_prompt_is_nearly_the_one_after_a_slow_one(
    runner: OrtModelRunner, tokens: list[int]
) -> None:
    half = len(tokens) // 2
    run(runner, 0, 0, tokens[:half], "prompt")
    run(runner, 1, 0, tokens[:half], "answer")
    fast, slow = (log_softmax(run(runner, row, half, tokens[half:], "answer")) for row in (0, 1))
    divergence = (np.exp(slow) * (slow - fast)).sum(axis=1)
    assert 0 < divergence.mean() < 0.01
    second, first = np.sort(slow, axis=1)[:, -2:].T
    is_same = fast.argmax(axis=1) == slow.argmax(axis=1)
    assert is_same[first - second > 0.5].all()  # nearer ones may change places
    assert is_same.mean() > 0.8


def test_a_full_disk_costs_the_graph_for_prompts_and_nothing_else(
    starter_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = BundleStore(starter_home.bundles, TrustedKeys.load(starter_home.trusted_keys)).open(
        "smollm2-135m-instruct"
    )
    made = prepacked(bundle, tmp_path / "cache", use_device=False, use_kernels=False).path.parent
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("model.onnx", "weights.bin", "tuning.json"):
        shutil.copy(made / name, folder)
    before = {path.name for path in folder.iterdir()}

    def runs_full(_: Path, target: Path) -> None:
        target.with_suffix(".raw").write_bytes(b"some of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(making, "write_int8_products", runs_full)
    model = folder / "model.onnx"
    assert not making._write_prompt(ModelFile(model, is_optimized=True), model)
    assert {path.name for path in folder.iterdir()} == before


@needs_exact_products
def test_a_processor_with_dot_products_alone_gets_no_graph_for_prompts(starter_home: Home, tmp_path: Path) -> None:
    bundle = BundleStore(starter_home.bundles, TrustedKeys.load(starter_home.trusted_keys)).open(
        "smollm2-135m-instruct"
    )
    made = prepacked(bundle, tmp_path / "cache", use_device=False, use_kernels=False).path.parent
    kinds: dict[ProcessorKind, bool] = {"dotprod": False, "i8mm": True, "neon": True, "x86": True}
    for kind, has_graph in kinds.items():
        folder = tmp_path / kind
        folder.mkdir()
        for name in ("model.onnx", "weights.bin", "tuning.json"):
            shutil.copy(made / name, folder)
        file, always = ModelFile(folder / "model.onnx", is_optimized=True), -100.0  # a gain that each graph reaches
        assert making.write_prompt_graphs(file, file.path, None, gain=always, kind=kind) is has_graph
        assert (folder / "prompt.onnx").exists() is (folder / "products.bin").exists() is has_graph
