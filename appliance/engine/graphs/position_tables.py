"""The tables of cosine and sine of a decoder's positions, with the same bits on every processor.

A bundle has them as nodes over inverse frequencies (rotary positions, https://arxiv.org/abs/2104.09864), which
onnxruntime computes with what the processor has. Here they are computed in double precision and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.engine.graphs.onnx_proto import Message, parse, tensor_value

Floats = NDArray[np.float32]

_FUNCTIONS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {"Cos": np.cos, "Sin": np.sin}
_SLICE = 4096  # positions, whose doubles are in memory at once


def position_tables(stored: Path) -> dict[str, Floats]:
    """Return the tables (positions, frequencies) of the bundle's graph `stored` by the names of their values.

    A table that is made in another way than lantern-quantize makes it is left out.

    Raises:
        ModelError: the file is no graph.
    """
    graph = parse(stored.read_bytes()).graph
    constants = _Constants(graph, stored.parent)
    makers = {name: node for node in graph.node for name in node.output}
    found: dict[str, Floats] = {}
    for node in graph.node:
        if node.op_type in _FUNCTIONS:
            angles = _angles(makers.get(node.input[0]), makers, constants)
            if angles is not None:
                found[node.output[0]] = _rounded(_FUNCTIONS[node.op_type], angles)
        elif node.op_type == "Mul" and node.input[0] in found:
            factor = constants.of(node.input[1])
            if factor is not None and factor.size == 1:
                found[node.output[0]] = found[node.input[0]] * factor.astype(np.float32).reshape(())
    return found


class _Constants:
    """The small initializers of a graph."""

    def __init__(self, graph: Message, folder: Path) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._folder = folder

    def of(self, name: str) -> NDArray[np.generic] | None:
        """Return the value of an initializer; None for what a node or a caller gives."""
        tensor = self._tensors.get(name)
        return None if tensor is None else tensor_value(tensor, self._folder)


def _angles(node: Message | None, makers: dict[str, Message], constants: _Constants) -> Floats | None:
    """Return positions 0, 1, ... times frequencies, each product rounded once."""
    if node is None or node.op_type != "Mul":
        return None
    column, frequencies = makers.get(node.input[0]), constants.of(node.input[1])
    steps = makers.get(column.input[0]) if column is not None and column.op_type == "Reshape" else None
    if steps is None or steps.op_type != "Range" or frequencies is None or frequencies.ndim != 2:
        return None
    bounds = [constants.of(name) for name in steps.input]
    if any(bound is None or bound.size != 1 for bound in bounds):
        return None
    begin, end, step = (float(bound.reshape(())) for bound in bounds if bound is not None)
    if (begin, step) != (0.0, 1.0):
        return None
    return np.arange(int(end), dtype=np.float32)[:, None] * frequencies.astype(np.float32)


def _rounded(function: Callable[[NDArray[np.float64]], NDArray[np.float64]], angles: Floats) -> Floats:
    table = np.empty_like(angles)
    for begin in range(0, len(angles), _SLICE):
        table[begin : begin + _SLICE] = function(angles[begin : begin + _SLICE].astype(np.float64))
    return table
