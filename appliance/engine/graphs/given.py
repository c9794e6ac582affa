"""Initializers that are computed at load: onnxruntime gets them beside the graph, through the session's options."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from appliance.engine.graphs.onnx_proto import Message, add_external

Bytes = NDArray[np.uint8]

_LOCATION: Final = "joined"  # of values that lie in no file of the bundle


@contextlib.contextmanager
def keeper(scratch: Path | None) -> Iterator[Callable[[Bytes], Bytes]]:
    """Yield a function that moves a value to its place: a file in the folder `scratch`, or memory without one.

    The file goes with the values. The system can take the memory of what lies in it back.
    """
    if scratch is None:
        yield lambda value: value
        return
    with tempfile.TemporaryFile(dir=scratch) as file:
        yield lambda value: _mapped(value, file)


def add_given(graph: Message, name: str, value: Bytes) -> None:
    """Declare an initializer whose value the session's options hold."""
    add_external(graph, name, value, _LOCATION, 0)


def _mapped(value: Bytes, file: BinaryIO) -> Bytes:
    """Append a value to a file, and return it where it lies there; another shape of one that is there is kept."""
    if isinstance(value.base, np.memmap):
        return value
    offset = file.tell()
    file.write(value.tobytes())
    file.flush()
    return np.memmap(file, np.uint8, "r", offset, value.shape)
