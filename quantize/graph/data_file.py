"""The data file of a graph, written while the graph is built, slab by slab: memory never holds a whole weight."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.bundle.manifest import MODEL_DATA_NAME
from quantize.graph.edit import Editor
from quantize.sources.tensors import Rows

_SLAB_BYTES = 64 << 20
_PAGE_BYTES = 4096
_TILE = 512  # rows that are transposed at once: what a processor's cache holds
_ITEM_BYTES = 4

Slab = NDArray[np.float32]


class DataFile:
    """The file that the initializers of one graph point into; opened and closed as a context manager."""

    def __init__(self, folder: Path, edit: Editor) -> None:
        self._folder = folder
        self._edit = edit
        self._file = (folder / MODEL_DATA_NAME).open("wb")
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                self._file.truncate(-(-self._end // _PAGE_BYTES) * _PAGE_BYTES)

    def table(self, name: str, rows: Rows) -> ir.Value:
        """Write a tensor as it is."""
        value, offset = self._reserved(name, rows.shape)
        for slab in rows.slabs(_rows_at_once(rows.shape)):
            offset = self._write(offset, np.ascontiguousarray(slab, "<f4"))
        return value

    def product_weight(self, name: str, parts: Sequence[Rows]) -> ir.Value:
        """Write projections (N, K) of the same rows as the one weight (K, sum of N) of a product."""
        num_inputs, num_outputs = parts[0].shape[1], sum(part.shape[0] for part in parts)
        value, offset = self._reserved(name, (num_inputs, num_outputs))
        column = 0
        for slab in _joined(parts):
            self._write_columns(offset + column * _ITEM_BYTES, slab, num_outputs)
            column += len(slab)
        return value

    def experts(self, name: str, shape: tuple[int, int, int], matrices: Iterable[Slab]) -> ir.Value:
        """Write the matrices (N, K) of all experts one after another, as they are: (experts, N, K)."""
        value, offset = self._reserved(name, shape)
        for matrix in matrices:
            offset = self._write(offset, np.ascontiguousarray(matrix, "<f4"))
        return value

    def _write_columns(self, offset: int, slab: Slab, num_outputs: int) -> None:
        """Write rows of the projections as columns of the weight."""
        turned = _transposed(slab)
        if turned.shape[1] == num_outputs:
            self._write(offset, turned)
            return
        for index, line in enumerate(turned):
            self._write(offset + index * num_outputs * _ITEM_BYTES, line)

    def _write(self, offset: int, array: Slab) -> int:
        """Write all of an array, which a nearly full disk takes in pieces before it refuses; return its end."""
        rest = array.data.cast("B")
        while rest:
            written = os.pwrite(self._file.fileno(), rest, offset)
            rest, offset = rest[written:], offset + written
        return offset

    def _reserved(self, name: str, shape: tuple[int, ...]) -> tuple[ir.Value, int]:
        offset, size = self._end, math.prod(shape) * _ITEM_BYTES
        self._end = -(-(offset + size) // _PAGE_BYTES) * _PAGE_BYTES
        tensor = ir.ExternalTensor(
            MODEL_DATA_NAME,
            offset,
            size,
            ir.DataType.FLOAT,
            shape=ir.Shape(shape),
            name=name,
            base_dir=self._folder,
        )
        value = ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
        self._edit.graph.initializers[name] = value
        return value, offset


def _rows_at_once(shape: tuple[int, ...]) -> int:
    return max(1, _SLAB_BYTES // (math.prod(shape[1:]) * _ITEM_BYTES))


def _joined(parts: Sequence[Rows]) -> Iterator[Slab]:
    """Return the rows of all parts one after another, in slabs as large as allowed."""
    at_once = _rows_at_once(parts[0].shape)
    waiting: list[Slab] = []
    for slab in (slab for part in parts for slab in part.slabs(at_once)):
        if waiting and sum(map(len, waiting)) + len(slab) > at_once:
            yield np.concatenate(waiting)
            waiting = []
        waiting.append(slab)
    yield np.concatenate(waiting)


def _transposed(slab: Slab) -> Slab:
    turned = np.empty(slab.shape[::-1], "<f4")
    for row in range(0, slab.shape[0], _TILE):
        for column in range(0, slab.shape[1], _TILE):
            tile = slab[row : row + _TILE, column : column + _TILE]
            turned[column : column + _TILE, row : row + _TILE] = tile.T
    return turned
