"""Products of uint8 and int8 as products of uint8 alone, for processors that add the former with saturation.

x86 without VNNI multiplies pairs of uint8 and int8 and adds them in 16 bits, which two large products exceed
(vpmaddubsw); onnxruntime widens two uint8 before it multiplies them. The codes c become c + 128, and their zero point
128, so that every product is the same whole number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from appliance.engine.graphs.given import Bytes, add_given, keeper
from appliance.engine.graphs.onnx_proto import INT8, Message, add_constant, parse, tensor_value
from appliance.errors import ModelError

_WEIGHTS: Final = 1  # the input with the weights
_ZERO_POINTS: Final = {"MatMulInteger": 3, "MatMulIntegerToFloat": 5, "DynamicQuantizeMatMul": 3}  # the input of theirs
_MIDDLE: Final = np.uint8(128)


def unsigned_products(model: bytes, folder: Path, scratch: Path | None = None) -> tuple[bytes, dict[str, Bytes]] | None:
    """Return the graph with uint8 weights (K, N) in place of int8, and these initializers by name; None without any.

    `folder` holds the files of the graph's weights, and `scratch` those of the new ones (given.py).

    Raises:
        ModelError: zero points that are no constant.
    """
    parsed = parse(model)
    graph = parsed.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type in _ZERO_POINTS and _is_int8(tensors, node.input[_WEIGHTS])]
    if not nodes:
        return None
    found: dict[str, Bytes] = {}
    with keeper(scratch) as keep:
        for node in nodes:
            name = node.input[_WEIGHTS]
            if _unsigned(name) not in found:
                found[_unsigned(name)] = keep(_raised(tensors[name], folder))
            _set_inputs(graph, node, tensors, folder)
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for name, value in found.items():
        add_given(graph, name, value)
    return parsed.SerializeToString(), found


def _set_inputs(graph: Message, node: Message, tensors: dict[str, Message], folder: Path) -> None:
    """Let a product read the raised weights, and their zero points raised alike."""
    place = _ZERO_POINTS[node.op_type]
    node.input.extend([""] * (place + 1 - len(node.input)))
    zero_points = node.input[place]
    if zero_points and zero_points not in tensors:
        raise ModelError(f"the zero points {zero_points} of {node.input[_WEIGHTS]} are no constant")
    value = _raised(tensors[zero_points], folder) if zero_points else np.array(_MIDDLE)
    node.input[_WEIGHTS] = _unsigned(node.input[_WEIGHTS])
    node.input[place] = f"{node.input[_WEIGHTS]}_zero_points"
    if node.input[place] not in tensors:
        add_constant(graph, node.input[place], value)
        tensors[node.input[place]] = graph.initializer[-1]


def _is_int8(tensors: dict[str, Message], name: str) -> bool:
    return name in tensors and tensors[name].data_type == INT8


def _raised(tensor: Message, folder: Path) -> Bytes:
    return np.asarray(tensor_value(tensor, folder).view(np.uint8) ^ _MIDDLE)


def _unsigned(name: str) -> str:
    return f"{name}_unsigned"
