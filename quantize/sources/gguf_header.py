"""A GGUF file's metadata and tensor list, read with every length checked; of a split model, all its files."""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.errors import QuantizeError
from quantize.quiet import quiet
from quantize.sources.fields import shown
from quantize.sources.tensors import cuts

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_STRING, _ARRAY = 8, 9
_MAX_DIMS = 4
_FLOAT_KINDS = {0: "<f4", 1: "<f2"}
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor, its shape in numpy's order; `offset` is that of its first byte within the file."""

    name: str
    kind: int
    shape: tuple[int, ...]
    path: Path
    offset: int
    size_bytes: int

    def load(self) -> NDArray[np.float32]:
        """Return its values, dequantized to float32."""
        with quiet():
            from gguf import GGMLQuantizationType
            from gguf.quants import dequantize

        raw = np.memmap(self.path, np.uint8, "r", self.offset, (self.size_bytes,)) if self.size_bytes else b""
        rows = np.asarray(raw).reshape(*self.shape[:-1], -1)
        return np.asarray(dequantize(rows, GGMLQuantizationType(self.kind)), np.float32).reshape(self.shape)

    def slabs(self, num_rows: int) -> Iterator[NDArray[np.float32]]:
        """Return its rows in order, dequantized to float32, so many at once."""
        row_bytes = self.size_bytes // self.shape[0]
        for start, stop in cuts(self.shape[0], num_rows):
            shape, offset = (stop - start, *self.shape[1:]), self.offset + start * row_bytes
            yield replace(self, shape=shape, offset=offset, size_bytes=(stop - start) * row_bytes).load()


@dataclass(frozen=True, slots=True)
class Gguf:
    """The metadata of the first file, and the tensors of all files."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """Return the name that the keys of the model begin with."""
        return str(self.metadata.get("general.architecture"))


def split_files(path: Path) -> list[Path]:
    """Return all files of a split model, or the single one.

    Raises:
        QuantizeError: one of them is missing.
    """
    match = _SPLIT.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    files = [path.with_name(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise QuantizeError(f"{missing.name} is missing, which {path.name} belongs to; copy all {count} files")
    return files


def read_gguf(path: Path) -> Gguf:
    """Read one file, or all files of a split model.

    Raises:
        QuantizeError: damaged, truncated, of a type that is not known, or not whole.
    """
    files = split_files(path)
    read = [_read_file(file) for file in files]
    first = dict(read[0].metadata)
    tensors: dict[str, GgufTensor] = {}
    for number, part in enumerate(read):
        for name, tensor in part.tensors.items():
            if name in tensors:
                raise QuantizeError(f"{part.path.name} cannot be read: it has {name}, as {tensors[name].path.name} has")
            tensors[name] = tensor
        stated = (part.metadata.get("split.no", 0), part.metadata.get("split.count", 0) or 1)
        if stated != (number, len(files)):
            raise QuantizeError(
                f"{part.path.name} says that it is part {stated[0] + 1} of {stated[1]}, but its name and place say "
                f"{number + 1} of {len(files)}; give the first file of the whole set"
            )
    expected = first.get("split.tensors.count")
    if len(files) > 1 and expected != len(tensors):
        raise QuantizeError(
            f"{files[0].name} says that all files have {shown(expected)} tensors; they have {len(tensors)}"
        )
    return Gguf(files[0], {name: value for name, value in first.items() if not name.startswith("split.")}, tensors)


class _Cut(Exception):
    """The file ends within a value."""


class _Reader:
    """Reads values from one place on."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise _Cut
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> int:
        value: int = struct.unpack(f"<{form}", self.take(struct.calcsize(form)))[0]
        return value

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner == _STRING:
                return [self.text() for _ in range(count)]
            if inner not in _SCALARS:
                raise ValueError(f"an array of type {inner}, which is not known")
            dtype = np.dtype(_SCALARS[inner])
            return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()
        if kind not in _SCALARS:
            raise ValueError(f"a value of type {kind}, which is not known")
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self.take(dtype.itemsize), dtype)[0].item()


def _read_file(path: Path) -> Gguf:
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise QuantizeError(f"{path.name} is not a GGUF file; copy or download it again")
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(path, _Reader(data))
        except _Cut as err:
            raise QuantizeError(f"{path.name} is truncated; copy or download it again") from err
        except (ValueError, OverflowError, MemoryError) as err:
            raise QuantizeError(f"{path.name} cannot be read: {err}") from err


def _parse(path: Path, reader: _Reader) -> Gguf:
    reader.take(4)
    version = reader.number("I")
    if version not in _VERSIONS:
        raise ValueError(f"its version is {version}; 2 and 3 are known")
    num_tensors, num_keys = reader.number("Q"), reader.number("Q")
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        name = reader.text()
        if name in metadata:
            raise ValueError(f"it has {name} twice")
        try:
            metadata[name] = reader.value(reader.number("I"))
        except ValueError as err:
            raise ValueError(f"{name} is {err}") from err
    listed = [_entry(reader) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 8 or alignment % 8:
        raise ValueError(f"general.alignment is {shown(alignment)}")
    start = -(-reader.at // alignment) * alignment
    size_of, tensors = _sizes(), dict[str, GgufTensor]()
    end = start
    for name, shape, kind, offset in sorted(listed, key=lambda entry: entry[3]):
        size = size_of(name, kind, shape)
        if name in tensors:
            raise ValueError(f"it has {name} twice")
        if start + offset != -(-end // alignment) * alignment:
            raise ValueError(f"{name} does not follow the tensor before it; its type, shape or place is wrong")
        end = start + offset + size
        if end > len(reader.data):
            raise _Cut
        tensors[name] = GgufTensor(name, kind, shape, path, start + offset, size)
    if len(reader.data) - end >= alignment:
        raise ValueError(f"{len(reader.data) - end} bytes follow its last tensor; a type or shape is wrong")
    return Gguf(path, metadata, {name: tensors[name] for name, *_ in listed})


def _entry(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    name, num_dims = reader.text(), reader.number("I")
    if not 1 <= num_dims <= _MAX_DIMS:
        raise ValueError(f"{name} has {num_dims} dimensions")
    shape = tuple(reader.number("Q") for _ in range(num_dims))[::-1]
    return name, shape, reader.number("I"), reader.number("Q")


def _sizes() -> Callable[[str, int, tuple[int, ...]], int]:
    with quiet():
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    def size_of(name: str, kind: int, shape: tuple[int, ...]) -> int:
        if kind not in {int(known) for known in GGMLQuantizationType}:
            raise ValueError(f"{name} is of type {kind}, which is not known")
        block, type_size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if shape[-1] % block:
            raise ValueError(f"{name} has rows of {shape[-1]}, which blocks of {block} do not divide")
        count = 1
        for size in shape:
            count *= size
        return int(count // block * type_size)

    return size_of
