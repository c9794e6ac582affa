"""The tables of cosine and sine that the attention operator takes.

They are nodes over the inverse frequencies, which onnxruntime folds once at load; so the file stays small.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from appliance.errors import QuantizeError
from quantize.graph.edit import Editor
from quantize.sources.rotations import Rotation

_STEP = 8  # onnxruntime 1.32: "cos_cache dimension 1 must be ... a multiple of 8"

Tables = tuple[()] | tuple[ir.Value, ir.Value]


class RopeTables:
    """The pairs of tables of one graph; layers with the same rotation share one."""

    def __init__(self, edit: Editor, num_positions: int, anchor: ir.Node | None = None) -> None:
        """Prepare tables of so many positions, before the anchor or at the graph's end."""
        self._edit = edit
        self._num_positions = num_positions
        self._anchor = anchor
        self._made: dict[Rotation, tuple[ir.Value, ir.Value]] = {}

    def of(self, rotation: Rotation | None) -> Tables:
        """Return cosine and sine (positions, frequencies); none for a layer without positions.

        Raises:
            QuantizeError: the attention operator cannot turn so many channels.
        """
        if rotation is None:
            return ()
        if len(rotation.frequencies) % _STEP:
            raise QuantizeError(
                f"{2 * len(rotation.frequencies)} channels of each head turn; the engine knows multiples of {2 * _STEP}"
            )
        if rotation not in self._made:
            self._made[rotation] = self._build(rotation, f"rope_{len(self._made)}")
        return self._made[rotation]

    def _build(self, rotation: Rotation, name: str) -> tuple[ir.Value, ir.Value]:
        edit, at = self._edit, self._anchor
        zero, one = edit.constant("rope_zero", np.float32(0)), edit.constant("rope_one", np.float32(1))
        limit = edit.constant("rope_positions", np.float32(self._num_positions))
        column = edit.constant("rope_column", np.array([-1, 1], np.int64))
        steps = edit.node("Range", [zero, limit, one], f"{name}/steps", before=at)
        steps = edit.node("Reshape", [steps, column], f"{name}/column", before=at)
        frequencies = edit.constant(f"{name}/freq", rotation.array()[None])
        angles = edit.node("Mul", [steps, frequencies], f"{name}/angles", before=at)
        tables = []
        for op in ("Cos", "Sin"):
            table = edit.node(op, [angles], f"{name}/{op.lower()}", before=at)
            if rotation.scale != 1.0:
                factor = edit.constant(f"{name}/scale", np.float32(rotation.scale))
                table = edit.node("Mul", [table, factor], f"{name}/{op.lower()}_scaled", before=at)
            tables.append(table)
        return tables[0], tables[1]
