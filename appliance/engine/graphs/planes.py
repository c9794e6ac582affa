"""Codes of 5 and 6 bits that lie in a bundle's file as two planes, joined to bytes before onnxruntime loads the graph.

The graph computes them from constants, which onnxruntime folds at load, too; but it holds about ten copies of all codes
until the last is folded. Here one matrix is in work at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from appliance.engine.graphs.given import Bytes, add_given, keeper
from appliance.engine.graphs.onnx_proto import Message, parse, tensor_value
from appliance.errors import ModelError

Array = NDArray[np.generic]

_JOIN: Final = "BitwiseOr"
_FOLDED: Final = frozenset({_JOIN, "BitwiseAnd", "BitShift", "Reshape"})


def join_planes(model: bytes, folder: Path, scratch: Path | None = None) -> tuple[bytes, dict[str, Bytes]] | None:
    """Return the graph with bytes in place of its planes, and these initializers by name; None if it has no planes.

    `folder` holds the files of the graph's weights. The initializers are external: they go to the session's options.
    `scratch` is a folder for them (given.py).

    Raises:
        ModelError: planes that do not fit each other.
    """
    parsed = parse(model)
    if not any(node.op_type == _JOIN for node in parsed.graph.node):
        return None
    folding = _Folding(parsed.graph, folder)
    with keeper(scratch) as keep:
        joined = folding.values(keep)
    if not joined:
        return None
    _replace(parsed.graph, joined)
    return parsed.SerializeToString(), joined


class _Folding:
    """The nodes of a graph that only join planes, and what they give to all others."""

    def __init__(self, graph: Message, folder: Path) -> None:
        self._folder = folder
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes: dict[str, Message] = {}  # that compute with constants alone, by their output
        joined = set[str]()
        for node in graph.node:  # sorted: what a node reads comes before it
            known = all(name in self._tensors or name in self._nodes for name in node.input)
            if node.op_type in _FOLDED and not node.domain and known and len(node.output) == 1:
                self._nodes[node.output[0]] = node
                if node.op_type == _JOIN or not joined.isdisjoint(node.input):
                    joined.add(node.output[0])
        readers = [node for node in graph.node if not (node.output and node.output[0] in self._nodes)]
        read = {name for node in readers for name in node.input} | {value.name for value in graph.output}
        self._wanted = [name for name in self._nodes if name in read and name in joined]
        self._done: dict[str, Array] = {}

    def values(self, keep: Callable[[Bytes], Bytes]) -> dict[str, Bytes]:
        """Compute what other nodes read; `keep` moves each value to its place, from which others are made."""
        found = {}
        for name in self._wanted:
            value = self._value(name)
            if value.dtype != np.uint8:
                raise ModelError(f"the planes of {name} are not bytes")
            found[name] = self._done[name] = keep(np.ascontiguousarray(value, np.uint8))
        return found

    def _value(self, name: str) -> Array:
        if name in self._done:
            return self._done[name]
        if name in self._tensors:
            return tensor_value(self._tensors[name], self._folder)
        node = self._nodes[name]
        try:
            return _compute(node, [self._value(given) for given in node.input])
        except (TypeError, ValueError) as err:
            raise ModelError(f"the planes of {name} do not fit: {err}") from err


def _compute(node: Message, given: list[Array]) -> Array:
    first, second = given
    if node.op_type == "Reshape":
        return first.reshape([int(size) for size in second])
    if node.op_type == "BitShift":
        is_left = any(attribute.name == "direction" and attribute.s == b"LEFT" for attribute in node.attribute)
        return np.asarray((np.left_shift if is_left else np.right_shift)(first, second))
    join: Mapping[str, Callable[..., Array]] = {_JOIN: np.bitwise_or, "BitwiseAnd": np.bitwise_and}
    return np.asarray(join[node.op_type](first, second))


def _replace(graph: Message, joined: Mapping[str, Bytes]) -> None:
    """Put initializers in place of the nodes that gave these values, and drop all that nothing reads any more."""
    kept = [node for node in graph.node if not joined.keys() & set(node.output)]
    outputs = {value.name for value in graph.output}
    while True:
        read = {name for node in kept for name in node.input} | outputs
        needed = [node for node in kept if node.op_type not in _FOLDED or not read.isdisjoint(node.output)]
        if len(needed) == len(kept):
            break
        kept = needed
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:]
    del graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(tensors)
    for name, value in joined.items():
        add_given(graph, name, value)
