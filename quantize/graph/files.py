"""A graph and its one data file: aligned for mapping into memory, and equal tensors written once.

The three tensors of a matrix in tiles lie one behind the other, in the order of their names: they are mapped as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import onnx_ir as ir
from numpy.typing import NDArray

from appliance.bundle.manifest import MODEL_DATA_NAME, MODEL_NAME
from quantize.graph import tiles

_INLINE_BYTES = 512
_LARGE_BYTES = 64 << 10
_PAGE_BYTES = 4096
_LINE_BYTES = 64


def save_graph(model: ir.Model, folder: Path, shared: Mapping[str, str] | None = None) -> None:
    """Write model.onnx and model.onnx.data; `shared` maps a tensor's name to the one that owns its bytes."""
    shared = shared or {}
    written: dict[str, tuple[int, int]] = {}
    values = sorted(model.graph.initializers.values(), key=lambda value: (value.name in shared, value.name))
    with (folder / MODEL_DATA_NAME).open("wb") as file:
        for value in values:
            array: NDArray[Any] = value.const_value.numpy()
            if array.nbytes < _INLINE_BYTES and not value.name.endswith(tiles.PARTS):
                # It may still point into the data file from which the graph was loaded.
                value.const_value = ir.tensor(array, dtype=value.const_value.dtype, name=value.name)
                continue
            owner = shared.get(value.name, value.name)
            if owner not in written:
                written[owner] = _append(file, array.tobytes(), is_next=owner.endswith((tiles.STEPS, tiles.UNITS)))
            offset, length = written[owner]
            value.const_value = ir.ExternalTensor(
                MODEL_DATA_NAME,
                offset,
                length,
                value.const_value.dtype,
                shape=value.const_value.shape,
                name=value.name,
                base_dir=folder,
            )
        file.truncate(-(-file.tell() // _PAGE_BYTES) * _PAGE_BYTES)
    ir.save(model, folder / MODEL_NAME)


def _append(file: BinaryIO, raw: bytes, *, is_next: bool) -> tuple[int, int]:
    step = _PAGE_BYTES if len(raw) >= _LARGE_BYTES and not is_next else _LINE_BYTES
    file.seek(-(-file.tell() // step) * step)
    offset = file.tell()
    file.write(raw)
    return offset, len(raw)
