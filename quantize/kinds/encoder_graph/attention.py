"""An encoder's attention on padded rows, with the family's rotary positions, window or bias by distance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from quantize.graph.edit import MICROSOFT, Editor
from quantize.kinds.encoder_graph.packing import Packing, ints
from quantize.sources.encoder_config import EncoderConfig

_OUTSIDE = np.float32(-1e9)  # added to the score of a token beyond the window
_MAX_DISTANCE = 128  # of MPNet's buckets


@dataclass(frozen=True, slots=True)
class Attention:
    """The attention of all layers of one graph; tables that several layers need are made once."""

    edit: Editor
    config: EncoderConfig
    packing: Packing
    relative_bias: NDArray[np.float32] | None
    _made: dict[str, ir.Value] = field(default_factory=dict)
    _tables: dict[float, tuple[ir.Value, ir.Value]] = field(default_factory=dict)

    def apply(self, qkv: ir.Value, layer: int) -> ir.Value:
        """Compute a layer's context (T, hidden) from Q, K and V (T, 3 * hidden)."""
        edit, hidden, name = self.edit, self.config.hidden_size, f"layer{layer}"
        rows = self.packing.pad_rows(qkv, 3 * hidden, f"{name}.qkv")
        q, k, v = edit.nodes(
            "Split",
            [rows, ints(edit, "thirds", [hidden] * 3)],
            [f"{name}.q", f"{name}.k", f"{name}.v"],
            attributes={"axis": -1},
        )
        theta = self.config.rope_theta_of(layer)
        if theta is not None:
            q, k = (self._rotated(x, theta, f"{name}.{part}") for x, part in ((q, "q"), (k, "k")))
        context = edit.node(
            "MultiHeadAttention",
            [q, k, v, None, self.packing.mask, *self._bias(layer)],
            f"{name}.context.rows",
            domain=MICROSOFT,
            num_heads=self.config.num_heads,
        )
        return self.packing.pack_rows(context, hidden, f"{name}.context")

    def _rotated(self, x: ir.Value, theta: float, name: str) -> ir.Value:
        start = ints(self.edit, "from_zero", [0])
        inputs = [x, start, *self._rope_tables(theta)]
        return self.edit.node("RotaryEmbedding", inputs, f"{name}.rotated", domain=MICROSOFT)

    def _rope_tables(self, theta: float) -> tuple[ir.Value, ir.Value]:
        """Return cosines and sines (positions, half a head), folded at load from the frequencies alone."""
        if theta not in self._tables:
            edit, name, half = self.edit, f"rope_{len(self._tables)}", self.config.head_dim // 2
            frequencies = theta ** -(np.arange(half, dtype=np.float64) / half)
            limit = edit.constant("rope_positions", np.float32(self.config.max_positions))
            zero, one = edit.constant("rope_zero", np.float32(0)), edit.constant("rope_one", np.float32(1))
            steps = edit.node("Range", [zero, limit, one], f"{name}.steps")
            column = edit.node("Reshape", [steps, ints(edit, "column", [-1, 1])], f"{name}.column")
            row = edit.constant(f"{name}.frequencies", frequencies[None].astype(np.float32))
            angles = edit.node("Mul", [column, row], f"{name}.angles")
            self._tables[theta] = edit.node("Cos", [angles], f"{name}.cos"), edit.node("Sin", [angles], f"{name}.sin")
        return self._tables[theta]

    def _bias(self, layer: int) -> list[ir.Value]:
        """Return the bias of the scores (1, heads or 1, S, S); most families have none."""
        if self.relative_bias is not None:
            return [self._once("relative", self._relative)]
        if self.config.window_of(layer) is not None:
            return [self._once("window", self._window)]
        return []

    def _once(self, name: str, make: Callable[[], ir.Value]) -> ir.Value:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _relative(self) -> ir.Value:
        """Compute the bias by the distance's bucket; the table holds one row for each possible distance."""
        edit, table = self.edit, self.relative_bias
        assert table is not None
        most = self.config.max_positions - 1
        rows = table[distance_buckets(np.arange(-most, most + 1), len(table))]
        at = edit.node("Add", [self.packing.distances(), edit.constant("most", np.int64(most))], "distance_rows")
        by_pair = edit.node("Gather", [edit.constant("relative_bias", rows), at], "bias_by_pair")
        by_head = edit.node("Transpose", [by_pair], "bias_by_head", perm=[2, 0, 1])
        return edit.node("Unsqueeze", [by_head, ints(edit, "first_axis", [0])], "attention_bias")

    def _window(self) -> ir.Value:
        edit, window = self.edit, self.config.local_window
        assert window is not None
        far = edit.node(
            "Greater",
            [edit.node("Abs", [self.packing.distances()], "far"), edit.constant("window", np.int64(window))],
            "is_far",
        )
        bias = edit.node(
            "Where", [far, edit.constant("outside", _OUTSIDE), edit.constant("inside", np.float32(0))], "window_bias"
        )
        return edit.node("Unsqueeze", [bias, ints(edit, "first_axes", [0, 1])], "attention_bias")


def distance_buckets(distances: NDArray[np.int64], num_buckets: int) -> NDArray[np.int64]:
    """Return MPNet's bucket of each distance (key minus query): exact if near, logarithmic if far, one half a sign."""
    half = num_buckets // 2
    exact = half // 2
    far = np.abs(distances)
    ratio = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact)) / np.float32(
        math.log(_MAX_DISTANCE / exact)
    )
    large = np.minimum(exact + (ratio * (half - exact)).astype(np.int64), half - 1)
    return np.where(distances > 0, half, 0) + np.where(far < exact, far, large)
