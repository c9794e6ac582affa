"""GGUF files taken apart and written again with changes."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.sources.gguf_header import read_gguf

Values = NDArray[np.float32]
_ALIGNMENT = 32
_STRING, _ARRAY = 8, 9


def gguf_parts(path: Path) -> tuple[dict[str, Any], dict[str, Values]]:
    found = read_gguf(path)
    return dict(found.metadata), {name: tensor.load() for name, tensor in found.tensors.items()}


def write_parts(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Values]) -> Path:
    """Write float32 tensors; the kinds of the values are those that llama.cpp's own tools take."""
    raw = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    for name, value in metadata.items():
        raw += _text(name) + _value(value)
    offset, data = 0, b""
    for name, values in tensors.items():
        raw += _text(name) + struct.pack("<I", values.ndim) + struct.pack(f"<{values.ndim}Q", *values.shape[::-1])
        raw += struct.pack("<IQ", 0, offset)
        stored = values.astype("<f4").tobytes()
        data += stored + bytes(-len(stored) % _ALIGNMENT)
        offset = len(data)
    path.write_bytes(raw + bytes(-len(raw) % _ALIGNMENT) + data)
    return path


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _value(value: Any) -> bytes:
    kind, body = _typed(value)
    return struct.pack("<I", kind) + body


def _typed(value: Any) -> tuple[int, bytes]:
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return 5, struct.pack("<i", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return _STRING, _text(value)
    parts = [_typed(item) for item in value] or [(5, b"")]
    return _ARRAY, struct.pack("<IQ", parts[0][0], len(value)) + b"".join(body for _, body in parts)
