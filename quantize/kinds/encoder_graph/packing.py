"""Texts of different lengths without their padding: the place of each token among the packed ones, and back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from quantize.graph.edit import Editor

_FLOAT, _INT32 = ir.DataType.FLOAT, ir.DataType.INT32


@dataclass(frozen=True, slots=True)
class Packing:
    """The index in both directions between packed tokens (T) and padded positions (B * S)."""

    edit: Editor
    mask: ir.Value  # (B, S) int32
    batch_shape: ir.Value  # [B, S]
    to_packed: ir.Value  # (T,) the padded position of each packed token
    to_padded: ir.Value  # (B * S,) the packed token of each padded position
    positions: ir.Value  # (S,) 0, 1, 2 and so on
    shapes: dict[int, ir.Value] = field(default_factory=dict)  # [B, S, width] by width
    _distances: list[ir.Value] = field(default_factory=list)

    @classmethod
    def of(cls, edit: Editor, ids: ir.Value, mask: ir.Value) -> Packing:
        """Add the nodes that compute the index from input_ids and attention_mask."""
        flat = ints(edit, "flat", [-1])
        mask32 = edit.node("Cast", [mask], "mask32", to=_INT32)
        mask_flat = edit.node("Reshape", [mask32, flat], "mask_flat")
        packed = edit.node("Reshape", [edit.node("NonZero", [mask_flat], "nonzero"), flat], "to_packed")
        count = edit.node("CumSum", [mask_flat, edit.constant("axis_0", np.int64(0))], "count")
        index = edit.node("Sub", [count, edit.constant("one_i32", np.int32(1))], "index")
        padded = edit.node("Max", [index, edit.constant("zero_i32", np.int32(0))], "to_padded")
        length = edit.node("Squeeze", [edit.node("Shape", [ids], "length_1d", start=1, end=2)], "length")
        zero, one = edit.constant("zero_i64", np.int64(0)), edit.constant("one_i64", np.int64(1))
        positions = edit.node("Range", [zero, length, one], "positions")
        return cls(edit, mask32, edit.node("Shape", [ids], "batch_shape"), packed, padded, positions)

    def pack(self, values: ir.Value, name: str) -> ir.Value:
        """Pack (B, S) integers into (T,)."""
        flat = self.edit.node("Reshape", [values, ints(self.edit, "flat", [-1])], f"{name}_flat")
        return self.edit.node("Gather", [flat, self.to_packed], f"{name}_packed")

    def pack_rows(self, rows: ir.Value, width: int, name: str) -> ir.Value:
        """Pack rows (B, S, width) into (T, width)."""
        flat = self.edit.node("Reshape", [rows, ints(self.edit, f"rows_{width}", [-1, width])], f"{name}.padded")
        return self.edit.node("Gather", [flat, self.to_packed], name)

    def pad_rows(self, rows: ir.Value, width: int, name: str) -> ir.Value:
        """Pad rows (T, width) to (B, S, width); padding holds some other token's row."""
        padded = self.edit.node("Gather", [rows, self.to_padded], f"{name}.padded")
        if width not in self.shapes:
            parts = [self.batch_shape, ints(self.edit, f"width_{width}", [width])]
            self.shapes[width] = self.edit.node("Concat", parts, f"rows_of_{width}", axis=0)
        return self.edit.node("Reshape", [padded, self.shapes[width]], f"{name}.rows")

    def first_rows(self, rows: ir.Value, name: str) -> ir.Value:
        """Select each text's first token: (B, width) of (T, width)."""
        by_text = self.edit.node("Reshape", [self.to_padded, self.batch_shape], f"{name}.places")
        first = self.edit.node(
            "Gather", [by_text, self.edit.constant("zero_i64", np.int64(0))], f"{name}.place", axis=1
        )
        return self.edit.node("Gather", [rows, first], name)

    def last_rows(self, rows: ir.Value, name: str) -> ir.Value:
        """Select each text's last token: (B, width) of (T, width); padding stands behind a text."""
        by_text = self.edit.node("Reshape", [self.to_padded, self.batch_shape], f"{name}.places")
        last = self.edit.node(
            "Gather", [by_text, self.edit.constant("last_i64", np.int64(-1))], f"{name}.place", axis=1
        )
        return self.edit.node("Gather", [rows, last], name)

    def distances(self) -> ir.Value:
        """Compute the distances (S, S), made once: the key's position minus the query's."""
        if not self._distances:
            keys = self.edit.node("Unsqueeze", [self.positions, ints(self.edit, "first_axis", [0])], "key_positions")
            queries = self.edit.node("Unsqueeze", [self.positions, ints(self.edit, "last", [-1])], "query_positions")
            self._distances.append(self.edit.node("Sub", [keys, queries], "distances"))
        return self._distances[0]

    def packed_positions(self) -> ir.Value:
        """Return each token's place in its text, (T,)."""
        padded = self.edit.node("Expand", [self.positions, self.batch_shape], "positions_padded")
        return self.pack(padded, "positions")

    def mean_rows(self, rows: ir.Value, width: int, name: str) -> ir.Value:
        """Compute the mean over each text: (B, width) of (T, width)."""
        edit = self.edit
        weights = edit.node("Cast", [self.mask], f"{name}.mask", to=_FLOAT)
        column = edit.node("Unsqueeze", [weights, ints(edit, "last", [-1])], f"{name}.mask_column")
        masked = edit.node("Mul", [self.pad_rows(rows, width, name), column], f"{name}.masked")
        total = edit.node("ReduceSum", [masked, ints(edit, "tokens", [1])], f"{name}.sum", keepdims=0)
        count = edit.node("ReduceSum", [weights, ints(edit, "tokens", [1])], f"{name}.num_tokens", keepdims=1)
        count = edit.node("Max", [count, edit.constant("at_least_one", np.float32(1))], f"{name}.num_tokens_or_1")
        return edit.node("Div", [total, count], name)


def ints(edit: Editor, name: str, values: list[int]) -> ir.Value:
    """Add a constant of int64, or return the one that has this name."""
    return edit.constant(name, np.array(values, np.int64))
