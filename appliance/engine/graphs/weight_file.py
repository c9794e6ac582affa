"""The file of the weights that a derived graph maps; what the bundle's own file holds in the same order stays there."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from appliance.engine.graphs.onnx_proto import EXTERNAL, Message, add_external, external_place, parse

Bytes = NDArray[np.uint8]

ALIGNMENT: Final = 64  # of a tensor: else the operators copy it


def map_file(path: Path) -> Bytes:
    """Return the bytes of a file where the system maps them; an empty file has none."""
    return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)


class WeightFile:
    """A writer of external initializers, opened and closed as a context manager; `stored` is the bundle's model.

    An initializer has the name of the file that holds it as its location: that of this one, or of the bundle's.
    """

    def __init__(self, path: Path, stored: Path | None) -> None:
        self._name = path.name
        self._file = path.open("wb")
        self._stored = {} if stored is None else _stored_files(stored)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, graph: Message, name: str, value: NDArray[np.generic]) -> None:
        """Add an initializer to the graph, and its bytes to the file unless the bundle has them."""
        raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        for location, places in self._stored.items():
            offset = places.offset_of(raw)
            if offset is not None:
                add_external(graph, name, value, location, offset)
                return
        self._file.write(bytes(-self._file.tell() % ALIGNMENT))
        add_external(graph, name, value, self._name, self._file.tell())
        self._file.write(raw.data)


class _Places:
    """The places where the tensors of a bundle's file begin, by their first bytes."""

    def __init__(self, path: Path) -> None:
        self._data = map_file(path)
        self._offsets: dict[bytes, list[int]] = {}

    def know(self, offset: int) -> None:
        """Take notice of a tensor."""
        if offset % ALIGNMENT == 0:
            self._offsets.setdefault(self._data[offset : offset + ALIGNMENT].tobytes(), []).append(offset)

    def offset_of(self, raw: Bytes) -> int | None:
        """Return where these bytes lie from the beginning of a tensor on; None if they do not."""
        for offset in self._offsets.get(raw[:ALIGNMENT].tobytes(), []):
            if np.array_equal(self._data[offset : offset + raw.size], raw):
                return offset
        return None


def _stored_files(model: Path) -> dict[str, _Places]:
    found: dict[str, _Places] = {}
    for tensor in parse(model.read_bytes()).graph.initializer:
        if tensor.data_location == EXTERNAL:
            place = external_place(tensor)
            location = place["location"]
            if location not in found:
                found[location] = _Places(model.with_name(location))
            found[location].know(int(place.get("offset", 0)))
    return found
