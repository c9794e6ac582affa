"""The tensors of safetensors files: found by their headers alone, read one by one."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from appliance.errors import QuantizeError

_MAX_HEADER_BYTES = 100 << 20
ITEM_BYTES: Mapping[str, int] = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
FLOATS = frozenset({"F32", "F16", "BF16"})  # each value is a float32 exactly
_NUMPY: Mapping[str, str] = {
    "F64": "<f8",
    "I64": "<i8",
    "F32": "<f4",
    "I32": "<i4",
    "F16": "<f2",
    "U8": "u1",
    "I8": "i1",
}


class Rows(Protocol):
    """A stored tensor that is read in slabs of rows, so that memory never holds a large one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    def slabs(self, num_rows: int) -> Iterator[NDArray[np.float32]]:
        """Return its rows in order as float32, so many at once where it can be cut."""


def cuts(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Return the borders of consecutive pieces."""
    return ((start, min(start + size, total)) for start in range(0, total, size))


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file: `offset` is that of its first byte within the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int

    @property
    def size_bytes(self) -> int:
        """Return the bytes that it takes in its file."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def raw(self) -> NDArray[np.uint8]:
        """Return its bytes, mapped from the file."""
        if self.size_bytes == 0:
            return np.zeros(0, np.uint8)
        return np.memmap(self.path, np.uint8, "r", self.offset, (self.size_bytes,))

    def load(self) -> NDArray[Any]:
        """Return its values; floats of two bytes become float32."""
        raw = self.raw()
        if self.dtype == "BF16":
            wide = raw.view("<u2").astype(np.uint32) << np.uint32(16)
            return wide.view(np.float32).reshape(self.shape)
        if self.dtype.startswith("F8"):
            import ml_dtypes

            kinds = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}
            return np.asarray(raw.view(kinds[self.dtype]).astype(np.float32)).reshape(self.shape)
        if self.dtype not in _NUMPY:
            raise QuantizeError(f"{self.name} is stored as {self.dtype}, which is not known")
        values = raw.view(_NUMPY[self.dtype]).reshape(self.shape)
        return values.astype(np.float32) if self.dtype == "F16" else values

    def slabs(self, num_rows: int) -> Iterator[NDArray[np.float32]]:
        """Return its rows in order as float32, so many at once."""
        row_bytes = self.size_bytes // self.shape[0]
        for start, stop in cuts(self.shape[0], num_rows):
            shape, offset = (stop - start, *self.shape[1:]), self.offset + start * row_bytes
            yield np.asarray(replace(self, shape=shape, offset=offset).load(), np.float32)


def read_header(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a file.

    Raises:
        QuantizeError: truncated, damaged, or with tensors that overlap or leave gaps.
    """
    size = path.stat().st_size
    damaged = QuantizeError(f"{path.name} is truncated or damaged; copy the checkpoint again")
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise damaged
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            tensors = {name: _tensor(name, entry, path, 8 + length) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
            raise damaged from err
    end = 8 + length
    for tensor, stated in sorted(tensors.values(), key=lambda pair: (pair[0].offset, pair[1])):
        if tensor.offset != end or tensor.size_bytes != stated:
            raise damaged
        end += stated
    if end != size:
        raise damaged
    return {name: tensor for name, (tensor, _) in tensors.items()}


def _tensor(name: str, entry: Mapping[str, Any], path: Path, start: int) -> tuple[Tensor, int]:
    dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (*shape, first, last))
    if dtype not in ITEM_BYTES:
        raise QuantizeError(f"{name} in {path.name} is stored as {dtype!r}, which is not known")
    if not whole or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(name)
    return Tensor(name, dtype, tuple(shape), path, start + first), last - first


class TensorWriter:
    """Writes one safetensors file tensor by tensor, so that memory holds one of them; used as a context manager."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Write the header; every tensor is float32 and follows in this order."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, shape in shapes.items():
            size = 4 * math.prod(shape)
            header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
            end += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._shapes = dict(shapes)
        self._file = path.open("wb")
        self._file.write(struct.pack("<Q", len(text)) + text)

    def write(self, name: str, values: NDArray[np.float32]) -> None:
        """Append the next tensor of the header."""
        expected = next(iter(self._shapes))
        assert (name, values.shape) == (expected, self._shapes.pop(expected)), name
        self._file.write(np.ascontiguousarray(values, "<f4").data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        assert kind is not None or not self._shapes
