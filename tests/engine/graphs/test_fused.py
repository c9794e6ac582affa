"""Operators that Lantern's library computes in one: found in a graph where it is the same, and left alone elsewhere."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from appliance.engine.graphs.fused import fuse_small_operators
from appliance.engine.graphs.onnx_proto import LANTERN, parse
from appliance.engine.kernels import KernelLibrary

WIDTH = 8
_SIZES = {"halves": np.array([WIDTH // 2] * 2), "thirds": np.array([2, 6])}
_KERNELS = {"kernel": (WIDTH, 1, 3), "long": (WIDTH, 1, 9)}
_RANDOM = np.random.default_rng(4)
_SCALE = {"scale": _RANDOM.normal(size=WIDTH).astype(np.float32)}
_CONSTANTS = {
    **_SIZES,
    **_SCALE,
    **{name: _RANDOM.normal(size=shape).astype(np.float32) for name, shape in _KERNELS.items()},
}


def graph_of(nodes: list[onnx.NodeProto], *outputs: str) -> bytes:
    """Return a graph over x (1, S, WIDTH) and a state."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "past")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in _CONSTANTS.items()],
    )
    opsets = [
        helper.make_opsetid(domain, version) for domain, version in (("", 18), ("com.microsoft", 1), (LANTERN, 1))
    ]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def fused(model: bytes) -> tuple[bytes, Counter[str]]:
    """Return the graph with fused operators, and how many it has of each type."""
    parsed = parse(model)
    fuse_small_operators(parsed.graph, {tensor.name: tensor for tensor in parsed.graph.initializer})
    return parsed.SerializeToString(), Counter(node.op_type for node in parsed.graph.node)


def unit(
    *, sizes: str = "halves", axis: int = -1, alpha: float = 1.0, gate: int = 0, swapped: bool = False
) -> list[Any]:
    parts = ["a", "b"]
    factors = ["act", parts[1 - gate]]
    return [
        helper.make_node("Split", ["x", sizes], parts, axis=axis),
        helper.make_node("QuickGelu", [parts[gate]], ["act"], domain="com.microsoft", alpha=alpha),
        helper.make_node("Mul", factors[::-1] if swapped else factors, ["y"]),
    ]


def convolution(*, kernel: str = "kernel", perm: tuple[int, ...] = (0, 2, 1), **attributes: object) -> list[Any]:
    inputs = ["columns", kernel, "", "past"]
    return [
        helper.make_node("Transpose", ["x"], ["columns"], perm=perm),
        helper.make_node("CausalConvWithState", inputs, ["out", "present"], domain="com.microsoft", **attributes),
        helper.make_node("Transpose", ["out"], ["y"], perm=(0, 2, 1)),
    ]


def norm(*, axis: int = -1, epsilon: float = 1e-5, more: tuple[str, ...] = ()) -> list[Any]:
    return [helper.make_node("SimplifiedLayerNormalization", ["x", "scale"], ["y", *more], axis=axis, epsilon=epsilon)]


def skip_norm(*, inputs: tuple[str, ...] = ("x", "x", "scale"), outputs: tuple[str, ...] = ("y",)) -> list[Any]:
    return [helper.make_node("SkipSimplifiedLayerNormalization", inputs, outputs, domain="com.microsoft", epsilon=1e-5)]


@pytest.mark.parametrize("swapped", [False, True])
def test_gate_and_values_become_one_operator(swapped: bool) -> None:
    _, found = fused(graph_of(unit(swapped=swapped), "y"))
    assert found == {"GatedUnit": 1}


@pytest.mark.parametrize("activation", ["none", "silu"])
def test_a_convolution_and_its_transpositions_become_one_operator(activation: str) -> None:
    _, found = fused(graph_of(convolution(activation=activation), "y", "present"))
    assert found == {"CausalConvRows": 1}


def test_norms_become_those_with_the_same_bits_everywhere() -> None:
    assert fused(graph_of(norm(), "y"))[1] == {"RMSNorm": 1}
    for outputs in (("y",), ("y", "", "", "sum")):
        model, found = fused(graph_of(skip_norm(outputs=outputs), "y"))
        assert found == {"SkipRMSNorm": 1}
        (node,) = parse(model).graph.node
        assert list(node.input) == ["x", "scale", "x"]
        assert list(node.output) == [name for name in outputs if name]


@pytest.mark.parametrize(
    "nodes",
    [
        norm(axis=1),
        norm(more=("inverse",)),
        skip_norm(inputs=("x", "x", "scale", "bias")),
        skip_norm(outputs=("y", "", "inverse", "sum")),
        unit(sizes="thirds"),
        unit(axis=1),
        unit(alpha=1.702),
        unit(gate=1),
        [*unit(), helper.make_node("Neg", ["a"], ["more"])],
        [*unit(), helper.make_node("Neg", ["act"], ["more"])],
        convolution(perm=(1, 2, 0)),
        convolution(activation="swish"),
        convolution(dilation=2),
        convolution(kernel="long"),
        [*convolution(), helper.make_node("Neg", ["columns"], ["more"])],
        [*convolution(), helper.make_node("Neg", ["out"], ["more"])],
    ],
    ids=lambda nodes: nodes[-1].op_type + str(len(nodes)),
)
def test_what_is_something_else_stays(nodes: list[Any]) -> None:
    model = graph_of(nodes, "y", *(["more"] if len(nodes) > 3 else []))
    assert fused(model)[0] == parse(model).SerializeToString()


def test_values_that_the_graph_gives_out_stay() -> None:
    assert fused(graph_of(unit(), "y", "act"))[1]["QuickGelu"] == 1
    assert fused(graph_of(convolution(), "y", "present", "columns"))[1]["Transpose"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        (unit(), ["y"]),
        (convolution(activation="silu"), ["y", "present"]),
        (norm(), ["y"]),
        (skip_norm(outputs=("y", "", "", "sum")), ["y", "sum"]),
    ],
)
def test_the_fused_operator_computes_the_same(library: KernelLibrary, nodes: list[Any], outputs: list[str]) -> None:
    random = np.random.default_rng(1)
    feeds = {"x": random.normal(size=(1, 5, WIDTH)), "past": random.normal(size=(1, WIDTH, 2))}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    options = ort.SessionOptions()
    library.register(options)
    model = graph_of(nodes, *outputs)
    results = [
        ort.InferenceSession(each, options, providers=["CPUExecutionProvider"]).run(None, feeds)
        for each in (model, fused(model)[0])
    ]
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
