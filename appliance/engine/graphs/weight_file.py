"""The file of the weights that a derived graph maps; what the bundle's own file holds in the same order stays there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final, Self

import numpy as np
from numpy.typing import NDArray

from appliance.bundle.manifest import MODEL_DATA_NAME
from appliance.engine.graphs.onnx_proto import EXTERNAL, Message, add_external, external_place, parse

Bytes = NDArray[np.uint8]

ALIGNMENT: Final = 64  # of a tensor: else the operators copy it


def map_file(path: Path) -> Bytes:
    """Return the bytes of a file where the system maps them; an empty file has none."""
    return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)


class WeightFile:
    """A writer of external initializers into an open file; `stored` is the bundle's model.

    An initializer has the name of the file that holds it as its location: that of this one, or of the bundle's.
    """

    def __init__(self, file: BinaryIO, stored: Path | None) -> None:
        self._file = file
        self._stored = None if stored is None else _Places.of_model(stored)

    def add(self, graph: Message, name: str, value: NDArray[np.generic]) -> None:
        """Add an initializer to the graph, and its bytes to the file unless the bundle has them."""
        raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        offset = None if self._stored is None else self._stored.offset_of(raw)
        if offset is not None:
            add_external(graph, name, value, MODEL_DATA_NAME, offset)
            return
        self._file.write(bytes(-self._file.tell() % ALIGNMENT))
        add_external(graph, name, value, Path(self._file.name).name, self._file.tell())
        self._file.write(raw.data)


class _Places:
    """The places where the tensors of a bundle's file begin, by their first bytes."""

    def __init__(self, data: Bytes, offsets: Iterable[int]) -> None:
        self._data = data
        self._offsets: dict[bytes, list[int]] = {}
        for offset in offsets:
            if offset % ALIGNMENT == 0:
                self._offsets.setdefault(data[offset : offset + ALIGNMENT].tobytes(), []).append(offset)

    @classmethod
    def of_model(cls, model: Path) -> Self | None:
        """Read the places from a bundle's graph; None if its weights have no file, or one of another name."""
        path = model.with_name(MODEL_DATA_NAME)
        if not path.exists():
            return None
        found = [external_place(t) for t in parse(model.read_bytes()).graph.initializer if t.data_location == EXTERNAL]
        offsets = [int(place.get("offset", 0)) for place in found if place["location"] == MODEL_DATA_NAME]
        return cls(map_file(path), offsets)

    def offset_of(self, raw: Bytes) -> int | None:
        """Return where these bytes lie from the beginning of a tensor on; None if they do not."""
        for offset in self._offsets.get(raw[:ALIGNMENT].tobytes(), []):
            if np.array_equal(self._data[offset : offset + raw.size], raw):
                return offset
        return None
