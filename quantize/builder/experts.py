"""A mixture of experts: a router chooses some gated MLPs for each token, whose outputs are summed up by their scores.

onnxruntime's operator for experts sums a token's outputs in an order that depends on the other tokens of the step
(1.32.0, moe_quantization_cpu.cc: the busiest experts first), so that an answer would depend on the load. Here each row
of the operator is one token with one of its experts, and the sum is the graph's own: always in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from quantize.builder.parts import Parts, path_of
from quantize.builder.weights import whole
from quantize.graph.edit import MICROSOFT


def experts(parts: Parts, x: ir.Value, layer: int) -> ir.Value:
    """Compute a layer's mixture of experts for rows (B, S, hidden)."""
    found, edit = parts.design.experts, parts.edit
    assert found is not None
    path, count, chosen = f"{path_of(f'model.layers.{layer}')}/experts", found.count, found.chosen
    weights, index = _choice(parts, x, layer, path)
    apart = edit.constant("shape_one_expert", np.array([0, 0, 1, parts.config.hidden_size], np.int64))
    times = edit.constant("repeat_experts", np.array([1, 1, chosen, 1], np.int64))
    joined = edit.constant("shape_rows_of_experts", np.array([0, -1, parts.config.hidden_size], np.int64))
    rows = edit.node("Expand", [edit.node("Reshape", [x, apart], f"{path}/apart"), times], f"{path}/repeated")
    rows = edit.node("Reshape", [rows, joined], f"{path}/rows")
    depth, ends = edit.constant("num_experts", np.int64(count)), edit.constant("off_on", np.array([0, 1], np.float32))
    one = edit.node("OneHot", [index, depth, ends], f"{path}/one_hot")
    flat = edit.constant("shape_one_hot", np.array([-1, count], np.int64))
    outputs = edit.node(
        "MoE",
        [rows, edit.node("Reshape", [one, flat], f"{path}/routes"), *_weights(parts, layer, path)],
        f"{path}/MoE",
        domain=MICROSOFT,
        k=1,
        activation_type="swiglu",
        activation_alpha=1.0,
        activation_beta=0.0,
        swiglu_fusion=1,
        normalize_routing_weights=1,
    )
    by_token = edit.constant("shape_experts", np.array([0, -1, chosen, parts.config.hidden_size], np.int64))
    outputs = edit.node("Reshape", [outputs, by_token], f"{path}/by_token")
    column = edit.node("Unsqueeze", [weights, edit.constant("axis_last", np.array([-1], np.int64))], f"{path}/column")
    weighted = edit.node("Mul", [outputs, column], f"{path}/weighted")
    axis = edit.constant("axis_of_experts", np.array([2], np.int64))
    return edit.node("ReduceSum", [weighted, axis], f"{path}/sum", keepdims=0)


def _choice(parts: Parts, x: ir.Value, layer: int, path: str) -> tuple[ir.Value, ir.Value]:
    """Return the weights (B, S, chosen) of each token's experts, and their numbers (B, S, chosen)."""
    found, edit, names = parts.design.experts, parts.edit, parts.design.names.experts
    assert found is not None
    logits = parts.product(x, [f"model.layers.{layer}.{names.router}"], has_bias=False)
    attributes = {"axis": -1} if found.scores == "softmax" else {}
    scores = edit.nodes(
        "Softmax" if found.scores == "softmax" else "Sigmoid", [logits], [f"{path}/scores"], attributes=attributes
    )[0]
    count = edit.constant("chosen_experts", np.array([found.chosen], np.int64))
    bias = parts.weights.get(f"model.layers.{layer}.{names.bias}")
    if bias is None:
        weights, index = edit.nodes("TopK", [scores, count], [f"{path}/best", f"{path}/index"], name=f"{path}/TopK")
    else:
        constant = edit.constant(f"model.layers.{layer}.{names.bias}", whole(bias))
        choice = edit.node("Add", [scores, constant], f"{path}/choice")
        _, index = edit.nodes("TopK", [choice, count], [f"{path}/best", f"{path}/index"], name=f"{path}/TopK")
        weights = edit.node("GatherElements", [scores, index], f"{path}/chosen", axis=-1)
    if found.is_normalized:
        axis = edit.constant("axis_last", np.array([-1], np.int64))
        total = edit.node("ReduceSum", [weights, axis], f"{path}/total", keepdims=1)
        if found.epsilon:
            total = edit.node(
                "Add", [total, edit.constant("experts_epsilon", np.float32(found.epsilon))], f"{path}/above"
            )
        weights = edit.node("Div", [weights, total], f"{path}/shares")
    return parts.scaled(weights, found.scale, path), index


def _weights(parts: Parts, layer: int, path: str) -> list[ir.Value | None]:
    """Write the experts' matrices as the operator takes them: rows of gate and up in turn, then down."""
    found, hidden = parts.design.experts, parts.config.hidden_size
    assert found is not None
    first = parts.data.experts(
        f"{path}/up", (found.count, 2 * found.width, hidden), _gates_and_ups(parts, layer, found.count)
    )
    last = parts.data.experts(f"{path}/down", (found.count, hidden, found.width), _downs(parts, layer, found.count))
    return [first, None, last]


def _gates_and_ups(parts: Parts, layer: int, count: int) -> Iterator[NDArray[np.float32]]:
    names = parts.design.names.experts
    if names.joined is not None:
        for both in parts.weights[f"model.layers.{layer}.{names.joined}.weight"].slabs(1):
            yield _in_turn(*np.split(both[0], 2))
        return
    for expert in range(count):
        gate, up = (_matrix(parts, layer, name, expert) for name in (names.gate, names.up))
        yield _in_turn(gate, up)


def _downs(parts: Parts, layer: int, count: int) -> Iterator[NDArray[np.float32]]:
    names = parts.design.names.experts
    if names.joined is not None:
        for down in parts.weights[f"model.layers.{layer}.{names.down}.weight"].slabs(1):
            yield down[0]
        return
    for expert in range(count):
        yield _matrix(parts, layer, names.down, expert)


def _in_turn(gate: NDArray[np.float32], up: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([gate, up], axis=1).reshape(-1, gate.shape[1])


def _matrix(parts: Parts, layer: int, name: str, expert: int) -> NDArray[np.float32]:
    return whole(parts.weights[f"model.layers.{layer}.{name.format(expert)}.weight"])
