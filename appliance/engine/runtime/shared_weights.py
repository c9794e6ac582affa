"""One mapping of a model's weights for all its sessions.

onnxruntime maps the file anew for each session, so that a process holds every page as often as it has graphs. Only for
graphs whose operators read weights where they lie: one that packs its weights would pack them again for each session.
"""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.engine.graphs.onnx_proto import external_array, parse


class SharedWeights:
    """A file of weights, mapped once for as long as a session uses it; a session has to hold what `share` returns."""

    def __init__(self, path: Path) -> None:
        self._data: NDArray[np.uint8] = np.memmap(path, np.uint8, "r")

    def share(self, graph: bytes, location: str, options: ort.SessionOptions) -> list[object]:
        """Let a session with these options read the weights that `graph` has in the file `location`.

        Raises:
            ModelError: the file is shorter than the graph says.
        """
        held: list[object] = [self]
        for tensor in parse(graph).graph.initializer:
            array = external_array(tensor, location, self._data)
            if array is not None:
                value = ort.OrtValue.ortvalue_from_numpy(array)
                options.add_initializer(tensor.name, value)
                held += [array, value]
        return held


_OPEN: weakref.WeakValueDictionary[tuple[int, int, int], SharedWeights] = weakref.WeakValueDictionary()
_LOCK = threading.Lock()


def shared_weights(path: Path) -> SharedWeights:
    """Return the mapping of a file, which is made if no session uses it yet."""
    state = path.stat()
    key = (state.st_dev, state.st_ino, state.st_mtime_ns)
    with _LOCK:
        found = _OPEN.get(key)
        if found is None:
            found = _OPEN[key] = SharedWeights(path)
        return found
