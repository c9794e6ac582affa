"""Codes that lie in a bundle's file in another order than MatMulNBits reads, put in order before the graph is loaded.

These are the tiles of Lantern's kernels and, in bundles of earlier versions, planes of 5 and 6 bits
(docs/bundle-format.md). The graph computes the codes from constants, which onnxruntime folds at load, too; but it holds
about ten copies of all codes until the last is folded. Here some rows of one matrix are in work at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from appliance.engine.graphs.given import Bytes, add_given, keeper
from appliance.engine.graphs.onnx_proto import (
    EXTERNAL,
    Message,
    attributes_of,
    external_array,
    external_place,
    parse,
    tensor_value,
)
from appliance.errors import ModelError

Array = NDArray[np.generic]
Part = tuple[int, int, int]  # rows: the first, the one behind the last, and how many there are in all

_BITWISE: Final[Mapping[str, Callable[..., Array]]] = {
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
}
_JOINS: Final = frozenset({"BitwiseOr", "BitwiseXor"})  # one of them is in all graphs that put codes in order
_FOLDED: Final = frozenset({*_BITWISE, "BitShift", "Gather", "Reshape", "Transpose"})
_ROWS_BYTES: Final = 4 << 20  # of the file, that are in work at a time


def fold_codes(model: bytes, folder: Path, scratch: Path | None = None) -> tuple[bytes, dict[str, Bytes]] | None:
    """Return the graph with codes in place of the nodes that compute them, and these initializers by name.

    None if no node does. `folder` holds the files of the graph's weights. The initializers are external: they go to the
    session's options. `scratch` is a folder for them (given.py).

    Raises:
        ModelError: constants that do not fit each other.
    """
    parsed = parse(model)
    if not any(node.op_type in _JOINS for node in parsed.graph.node):
        return None
    folding = _Folding(parsed.graph, folder)
    with keeper(scratch) as keep:
        codes = folding.values(keep)
    if not codes:
        return None
    _replace(parsed.graph, codes)
    return parsed.SerializeToString(), codes


class _Folding:
    """The nodes of a graph that only put codes in order, and what they give to all others."""

    def __init__(self, graph: Message, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, NDArray[np.uint8]] = {}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes: dict[str, Message] = {}  # that compute with constants alone, by their output
        joined = set[str]()
        for node in graph.node:  # sorted: what a node reads comes before it
            known = all(name in self._tensors or name in self._nodes for name in node.input)
            if node.op_type in _FOLDED and not node.domain and known and len(node.output) == 1:
                self._nodes[node.output[0]] = node
                if node.op_type in _JOINS or not joined.isdisjoint(node.input):
                    joined.add(node.output[0])
        readers = [node for node in graph.node if not (node.output and node.output[0] in self._nodes)]
        read = {name for node in readers for name in node.input} | {value.name for value in graph.output}
        self._wanted = [name for name in self._nodes if name in read and name in joined]
        self._done: dict[str, Array] = {}

    def values(self, keep: Callable[[Bytes], Bytes]) -> dict[str, Bytes]:
        """Compute what other nodes read; `keep` moves each value to its place, from which others are made."""
        found = {}
        for name in self._wanted:
            value = self._by_rows(name)
            if value.dtype != np.uint8:
                raise ModelError(f"the codes of {name} are not bytes")
            found[name] = self._done[name] = keep(np.ascontiguousarray(value, np.uint8))
        return found

    def _by_rows(self, name: str) -> Array:
        """Compute a value, some rows at a time if it depends on its tensors row by row."""
        row_bytes, count = self._rows_of(name)
        at_once = max(1, _ROWS_BYTES // max(1, row_bytes))
        if count <= at_once:
            return self._value(name, None)
        parts = ((first, min(first + at_once, count), count) for first in range(0, count, at_once))
        first = next(parts)
        begun = self._value(name, first)
        whole = np.empty((count * len(begun) // first[1], *begun.shape[1:]), begun.dtype)
        whole[: len(begun)] = begun
        end = len(begun)
        for part in parts:
            value = self._value(name, part)
            whole[end : end + len(value)] = value
            end += len(value)
        return whole

    def _rows_of(self, name: str) -> tuple[int, int]:
        """Return the bytes of a row of the tensors in files that a value is made of, and their rows; (0, 0) for none.

        The tiles or rows of all have to be as many, and no node may mix them.
        """
        tensors = [tensor for tensor in self._sources(name).values() if tensor.data_location == EXTERNAL]
        counts = {tensor.dims[0] if tensor.dims else 0 for tensor in tensors}
        if len(counts) != 1 or not all(self._keeps_rows(node, max(counts)) for node in self._behind(name)):
            return 0, 0
        return sum(math.prod(tensor.dims[1:]) for tensor in tensors), max(counts)

    def _keeps_rows(self, node: Message, count: int) -> bool:
        """Return True if a node computes its result row by row, or as many rows from each of `count`."""
        known = attributes_of(node)
        match node.op_type:
            case "Gather":
                return known.get("axis", 0) != 0
            case "Transpose":
                order = known.get("perm")
                return isinstance(order, list) and order[:1] == [0]
            case "Reshape":
                sizes = self._tensors.get(node.input[1])
                return sizes is not None and count > 0 and int(tensor_value(sizes, self._folder)[0]) % count == 0
            case _:
                return True

    def _behind(self, name: str) -> list[Message]:
        """Return the nodes that compute a value, each once, down to what is computed already."""
        found: dict[str, Message] = {}
        waiting = [name]
        while waiting:
            at = waiting.pop()
            if at in self._nodes and at not in self._done and at not in found:
                found[at] = self._nodes[at]
                waiting += self._nodes[at].input
        return list(found.values())

    def _sources(self, name: str) -> dict[str, Message]:
        """Return the tensors of which a value is computed."""
        read = {given for node in self._behind(name) for given in node.input}
        return {given: self._tensors[given] for given in read & self._tensors.keys()}

    def _value(self, name: str, part: Part | None) -> Array:
        """Compute the rows `part` of a value, or all of it."""
        known: dict[str, Array] = {}
        for node in self._in_order(name):
            try:
                known[node.output[0]] = _compute(node, [self._given(each, part, known) for each in node.input], part)
            except (IndexError, TypeError, ValueError) as err:
                raise ModelError(f"the codes of {name} do not fit: {err}") from err
        return known[name]

    def _in_order(self, name: str) -> list[Message]:
        behind = {node.output[0] for node in self._behind(name)}
        return [node for output, node in self._nodes.items() if output in behind]

    def _given(self, name: str, part: Part | None, known: Mapping[str, Array]) -> Array:
        if name in known:
            return known[name]
        return self._done[name] if name in self._done else self._tensor(self._tensors[name], part)

    def _tensor(self, tensor: Message, part: Part | None) -> Array:
        if tensor.data_location != EXTERNAL:
            return tensor_value(tensor, self._folder)
        location = external_place(tensor)["location"]
        if location not in self._files:
            self._files[location] = np.memmap(self._folder / location, np.uint8, "r")
        value = external_array(tensor, location, self._files[location])
        assert value is not None
        return value if part is None else value[part[0] : part[1]]


def _compute(node: Message, given: list[Array], part: Part | None) -> Array:
    known = attributes_of(node)
    match node.op_type:
        case "Reshape":
            sizes = [int(size) for size in given[1]]
            if part is not None:
                sizes[0] = sizes[0] * (part[1] - part[0]) // part[2]
            return given[0].reshape(sizes)
        case "BitShift":
            return np.asarray((np.left_shift if known.get("direction") == b"LEFT" else np.right_shift)(*given))
        case "Gather":
            axis = known.get("axis", 0)
            assert isinstance(axis, int)
            return np.take(given[0], given[1].astype(np.int64), axis)
        case "Transpose":
            order = known.get("perm")
            return given[0].transpose(order if isinstance(order, list) else None)
        case _:
            return np.asarray(_BITWISE[node.op_type](*given))


def _replace(graph: Message, codes: Mapping[str, Bytes]) -> None:
    """Put initializers in place of the nodes that gave these values, and drop all that nothing reads any more."""
    kept = [node for node in graph.node if not codes.keys() & set(node.output)]
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
    for name, value in codes.items():
        add_given(graph, name, value)
