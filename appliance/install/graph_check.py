"""The check of an ONNX graph before onnxruntime loads it, from its bytes, without onnxruntime or onnx.

It reads the parts that can reach out of the graph: the domains of operators, and the locations of external data. Fields
and their numbers are those of onnx.proto3 (ONNX 1.21); all others are skipped by their length. Its time grows with the
number of nodes, so it runs in the trial, whose time is limited.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from appliance.errors import BundleError

ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
_REACHES_OUT = frozenset({"EPContext"})  # com.microsoft: names a file or a blob for a driver
_MAX_DEPTH = 16

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL = 1  # TensorProto.DataLocation

_Field = tuple[int, int | memoryview]


def check_graph(path: Path, sizes: Mapping[str, int]) -> None:
    """Refuse unknown operator domains, and external data anywhere but within the bundle's own files, given by size.

    Raises:
        BundleError: with the operator or the location.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # unmapped with the last view of it
        _Check(sizes).model(memoryview(data))
    except (IndexError, ValueError) as err:
        raise BundleError(f"{path.name} is not an ONNX file") from err


class _Check:
    """The walk over one file; views of the file do not outlive it."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes

    def model(self, data: memoryview) -> None:
        has_graph = False
        for number, value in _fields(data):
            if number == 7:  # graph
                has_graph = True
                self._graph(_bytes(value), 0)
            elif number == 8:  # opset_import
                self._domain(_text(_bytes(value), 1))
            elif number == 25:  # functions
                self._nodes(_bytes(value), 7, 0)
            elif number == 20:  # training_info
                raise BundleError("the graph holds training information")
        if not has_graph:
            raise BundleError("the file holds no graph")

    def _graph(self, data: memoryview, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise BundleError(f"the graph is nested more than {_MAX_DEPTH} levels deep")
        self._nodes(data, 1, depth)
        for number, value in _fields(data):
            if number == 5:  # initializer
                self._tensor(_bytes(value))
            elif number == 15:  # sparse_initializer
                self._sparse(_bytes(value))

    def _nodes(self, data: memoryview, node_number: int, depth: int) -> None:
        for number, value in _fields(data):
            if number == node_number:
                self._node(_bytes(value), depth)

    def _node(self, data: memoryview, depth: int) -> None:
        for number, value in _fields(data):
            if number == 7:
                self._domain(_decode(_bytes(value)))
            elif number == 4 and (name := _decode(_bytes(value))) in _REACHES_OUT:
                raise BundleError(f"the graph has the operator {name}, which reaches out of it")
            elif number == 5:
                self._attribute(_bytes(value), depth)

    def _attribute(self, data: memoryview, depth: int) -> None:
        for number, value in _fields(data):
            if number in {5, 10}:  # t, tensors
                self._tensor(_bytes(value))
            elif number in {6, 11}:  # g, graphs
                self._graph(_bytes(value), depth + 1)
            elif number in {22, 23}:  # sparse_tensor, sparse_tensors
                self._sparse(_bytes(value))

    def _sparse(self, data: memoryview) -> None:
        for number, value in _fields(data):
            if number in {1, 2}:  # values, indices
                self._tensor(_bytes(value))

    def _tensor(self, data: memoryview) -> None:
        entries: dict[str, str] = {}
        is_external = False
        for number, value in _fields(data):
            if number == 13:  # external_data
                entry = _bytes(value)
                entries[_text(entry, 1)] = _text(entry, 2)
            elif number == 14:
                is_external = value == _EXTERNAL
        if is_external or entries:
            self._place(entries)

    def _place(self, entries: Mapping[str, str]) -> None:
        location = entries.get("location", "")
        if location not in self._sizes:
            raise BundleError(f"the graph reads {location[:100]!r}, which is no file of the bundle")
        try:
            end = int(entries.get("offset", "0")) + int(entries.get("length", "0"))
        except ValueError as err:
            raise BundleError(f"the graph reads {location} at a place that is no number") from err
        if not 0 <= end <= self._sizes[location] or entries.get("offset", "0").startswith("-"):
            raise BundleError(f"the graph reads {location} beyond its end")

    def _domain(self, domain: str) -> None:
        if domain not in ALLOWED_DOMAINS:
            raise BundleError(f"the graph has operators of the domain {domain[:100]!r}, which this device does not run")


def _fields(data: memoryview) -> Iterator[_Field]:
    """Yield number and value of each field of a message, in order (protobuf's wire format)."""
    offset = 0
    while offset < len(data):
        tag, offset = _varint(data, offset)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, offset = _varint(data, offset)
            yield number, value
            continue
        if kind == _BYTES:
            size, offset = _varint(data, offset)
        elif kind in {_FIXED32, _FIXED64}:
            size = 4 if kind == _FIXED32 else 8
        else:
            raise IndexError(offset)
        if size > len(data) - offset:
            raise IndexError(offset)
        yield number, data[offset : offset + size]
        offset += size


def _varint(data: memoryview, offset: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
    raise IndexError(offset)


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise IndexError(value)
    return value


def _text(data: memoryview, wanted: int) -> str:
    """Return a string field of a message; empty if it is absent, the last one if it is repeated."""
    found = ""
    for number, value in _fields(data):
        if number == wanted:
            found = _decode(_bytes(value))
    return found


def _decode(value: memoryview) -> str:
    return bytes(value).decode("utf-8")
