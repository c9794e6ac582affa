"""The factors that smooth a float graph: readers apply them to each matrix that they load.

So a smoothed graph takes no second copy of the float weights, neither on disk nor in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.bundle.manifest import MODEL_DATA_NAME, MODEL_NAME

_NAME = "factors.npz"
_PARTS = ("columns", "rows", "constants")

Float32 = NDArray[np.float32]


@dataclass(slots=True)
class Factors:
    """Factors by a matrix's name: its columns (K,) are multiplied by one kind, its rows (N,) divided by the other.

    `constants` holds norms and biases as they are afterwards, by the names of their initializers.
    """

    columns: dict[str, Float32] = field(default_factory=dict)
    rows: dict[str, Float32] = field(default_factory=dict)
    constants: dict[str, Float32] = field(default_factory=dict)

    def apply(self, name: str, weight: Float32) -> Float32:
        """Smooth a matrix (N, K) in place, and return it."""
        if name in self.columns:
            weight *= self.columns[name]
        if name in self.rows:
            weight /= self.rows[name][:, None]
        return weight

    def undo(self, name: str, weight: Float32) -> Float32:
        """Return a smoothed matrix (N, K) in the checkpoint's own scale."""
        if name in self.columns:
            weight = weight / self.columns[name]
        if name in self.rows:
            weight = weight * self.rows[name][:, None]
        return weight

    def load_graph(self, folder: Path) -> ir.Model:
        """Load a float graph with its norms and biases smoothed; its matrices stay as they are."""
        model = ir.load(folder / MODEL_NAME)
        for name, array in self.constants.items():
            model.graph.initializers[name].const_value = ir.tensor(array, name=name)
        return model

    def save(self, folder: Path) -> None:
        """Write the factors."""
        arrays: dict[str, Any] = {
            f"{part}:{name}": value for part in _PARTS for name, value in getattr(self, part).items()
        }
        np.savez(folder / _NAME, **arrays)

    @classmethod
    def load(cls, folder: Path | None) -> Factors:
        """Read the factors that `save` kept; there are none without a folder."""
        factors = cls()
        if folder is None:
            return factors
        with np.load(folder / _NAME) as arrays:
            for key in arrays.files:
                part, name = key.split(":", 1)
                getattr(factors, part)[name] = arrays[key]
        return factors

    def weights_of(self, graph: onnx.GraphProto, folder: Path) -> Iterator[tuple[str, Float32]]:
        """Yield the smoothed weights (K, N) of those products of a graph that have factors, by initializer."""
        stored = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            name = matrix_name(node.name)
            if node.op_type == "MatMul" and (name in self.columns or name in self.rows):
                weight = np.array(_mapped(stored[node.input[1]], folder))
                self.apply(name, weight.T)
                yield node.input[1], weight


def matrix_name(node_name: str) -> str:
    """Return the name of a product's matrix: "layers.0/mlp/up_proj" for /model/layers.0/mlp/up_proj/MatMul."""
    return node_name.removesuffix("/MatMul").lstrip("/").removeprefix("model/")


def _mapped(tensor: onnx.TensorProto, folder: Path) -> Float32:
    if not tensor.external_data:
        return np.asarray(onnx.numpy_helper.to_array(tensor), np.float32)
    place = {entry.key: entry.value for entry in tensor.external_data}
    shape, offset = tuple(tensor.dims), int(place.get("offset", 0))
    raw = np.memmap(folder / MODEL_DATA_NAME, np.float32, "r", offset, (math.prod(shape),))
    return raw.reshape(shape)
