"""The operators that read a stored matrix: MatMulNBits multiplies with it, GatherBlockQuantized looks up its rows."""

from __future__ import annotations

import onnx_ir as ir

from quantize.graph.codec import BLOCK, QuantizedMatrix
from quantize.graph.edit import MICROSOFT, Editor

_ACCURACY_LEVEL = 4  # int8 products: the only level with fast kernels


def scales(edit: Editor, name: str, stored: QuantizedMatrix, before: ir.Node | None = None) -> ir.Value:
    """One byte a block in the file; onnxruntime folds the product with the rows' units once, at load."""
    units = edit.constant(f"{name}.units_f16", stored.units)
    steps = edit.constant(f"{name}.steps", stored.steps)
    to = ir.DataType.FLOAT
    parts = [
        edit.node("Cast", [steps], f"{name}.steps_f32", before=before, to=to),
        edit.node("Cast", [units], f"{name}.units", before=before, to=to),
    ]
    return edit.node("Mul", parts, f"{name}.scales", before=before)


def product(
    edit: Editor, x: ir.Value, stored: QuantizedMatrix, name: str, output: str, before: ir.Node
) -> tuple[ir.Value, ir.Value]:
    """X times the matrix transposed; and the scales, for whoever shares the table."""
    codes = edit.constant(f"{name}.codes", stored.packed())
    by_block = scales(edit, name, stored, before)
    result = edit.node(
        "MatMulNBits",
        [x, codes, by_block],
        output,
        domain=MICROSOFT,
        before=before,
        K=stored.num_inputs,
        N=stored.num_outputs,
        bits=stored.bits,
        block_size=BLOCK,
        accuracy_level=_ACCURACY_LEVEL,
    )
    return result, by_block


def lookup(
    edit: Editor,
    codes: ir.Value,
    indices: ir.Value,
    by_block: ir.Value,
    output: str,
    before: ir.Node | None = None,
) -> ir.Value:
    """Rows of an int8 table (N, K) in float."""
    return edit.node(
        "GatherBlockQuantized",
        [codes, indices, by_block],
        output,
        domain=MICROSOFT,
        before=before,
        bits=8,
        block_size=BLOCK,
        gather_axis=0,
        quantize_axis=1,
    )
