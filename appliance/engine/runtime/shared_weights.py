"""One mapping of a model's weights for all its sessions.

onnxruntime maps the file anew for each session, so that a process holds every page as often as it has graphs. Only for
graphs whose operators read weights where they lie: one that packs its weights would pack them again for each session.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.engine.graphs.onnx_proto import external_array, parse
from appliance.engine.graphs.weight_file import map_file


class SharedWeights:
    """A file of weights, mapped once for as long as a session uses it."""

    def __init__(self, path: Path) -> None:
        self._data = map_file(path)

    @property
    def data(self) -> NDArray[np.uint8]:
        """The bytes of the file."""
        return self._data


def share_weights(
    graph: bytes, files: Mapping[str, Path], options: ort.SessionOptions, *, present: str
) -> tuple[bytes, list[object]]:
    """Let a session with these options read the weights that `graph` has in files, by the names that it gives them.

    Return the graph to load, and what the session has to hold. onnxruntime opens none of these files, but wants to see
    them in the folder of the graph: all tensors name `present`, which is there.

    Raises:
        ModelError: a file is shorter than the graph says.
    """
    model = parse(graph)
    opened = {location: shared_weights(path) for location, path in files.items()}
    held: list[object] = list(opened.values())
    for tensor in model.graph.initializer:
        for location, weights in opened.items():
            array = external_array(tensor, location, weights.data)
            if array is not None:
                value = ort.OrtValue.ortvalue_from_numpy(array)
                options.add_initializer(tensor.name, value)
                held += [array, value]
                for entry in tensor.external_data:
                    if entry.key == "location":
                        entry.value = present
                break
    return model.SerializeToString(), held


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
