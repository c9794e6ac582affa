"""The operators that read a stored matrix: MatMulNBits multiplies with it, GatherBlockQuantized looks up its rows.

QMoE multiplies with the matrices of experts.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantize.graph.codec import BLOCK, KERNEL_BITS, QuantizedMatrix, plane_shifts
from quantize.graph.edit import MICROSOFT, Editor
from quantize.graph.tiles import can_be_tiled, codes_in_order, steps_in_order, tiles_of

_ACCURACY_LEVEL = 4  # int8 products: the only level with fast kernels
_LOW_BITS, _WIDEST = 4, 8


def scales(
    edit: Editor, name: str, stored: QuantizedMatrix, before: ir.Node | None = None, *, outer: tuple[int, ...] = ()
) -> ir.Value:
    """Add the scales, one byte a block in the file; onnxruntime multiplies them by the rows' units once, at load.

    They are (N, blocks), or with the sizes `outer` before N as many matrices of a part of the rows.
    """
    units = edit.constant(f"{name}.units_f16", stored.units.reshape(*outer, -1, 1))
    steps = edit.constant(f"{name}.steps", stored.steps.reshape(*outer, -1, stored.steps.shape[1]))
    to = ir.DataType.FLOAT
    floats = (
        edit.node("Cast", [steps], f"{name}.steps_f32", before=before, to=to),
        edit.node("Cast", [units], f"{name}.units", before=before, to=to),
    )
    return _multiplied(edit, name, stored, floats, before)


def _multiplied(
    edit: Editor, name: str, stored: QuantizedMatrix, steps_units: tuple[ir.Value, ir.Value], before: ir.Node | None
) -> ir.Value:
    """Multiply steps by units in float; codes of 5 and 6 bits become 8 or 4 times as large."""
    steps, units = steps_units
    if stored.bits not in KERNEL_BITS:
        widened = edit.constant(f"widened_{stored.bits}", np.float32(0.5 ** (_WIDEST - stored.bits)))
        units = edit.node("Mul", [units, widened], f"{name}.widened_units", before=before)
    return edit.node("Mul", [steps, units], f"{name}.scales", before=before)


def codes(edit: Editor, name: str, stored: QuantizedMatrix, before: ir.Node | None = None) -> ir.Value:
    """Add the codes (N, blocks, bytes a block); 5 and 6 bits become the upper ones of 8 once, at load."""
    if stored.bits in KERNEL_BITS:
        return edit.constant(f"{name}.codes", stored.packed())
    shape = np.array([stored.num_outputs, -1, BLOCK], np.int64)
    upper, empty = stored.bits - _LOW_BITS, _WIDEST - stored.bits
    parts = []
    for plane, bits, up in zip(stored.planes(), (_LOW_BITS, upper), (empty, empty + _LOW_BITS), strict=True):
        part = f"{name}.bits_{bits}"
        inputs = [edit.constant(part, plane), edit.constant(f"shifts_{bits}", plane_shifts(bits))]
        value = edit.node("BitShift", inputs, f"{part}.shifted", before=before, direction="RIGHT")
        mask = edit.constant(f"mask_{bits}", np.uint8((1 << bits) - 1))
        value = edit.node("BitwiseAnd", [value, mask], f"{part}.apart", before=before)
        left = edit.constant(f"left_{up}", np.uint8(up))
        value = edit.node("BitShift", [value, left], f"{part}.lifted", before=before, direction="LEFT")
        inputs = [value, edit.constant(f"shape_{stored.num_outputs}_blocks", shape)]
        parts.append(edit.node("Reshape", inputs, f"{part}.blocks", before=before))
    return edit.node("BitwiseOr", parts, f"{name}.codes", before=before)


def product(
    edit: Editor,
    x: ir.Value,
    stored: QuantizedMatrix,
    name: str,
    output: str,
    before: ir.Node | None,
    *,
    tiled: bool = False,
) -> tuple[ir.Value, ir.Value]:
    """Multiply X by the matrix transposed, and return the scales too, for a node that shares the table.

    `tiled`: the matrix lies as Lantern's kernels read it, if it has a form that they take.
    """
    if tiled and can_be_tiled(stored):
        tiles = tiles_of(stored)
        table = codes_in_order(edit, name, stored, tiles, before)
        by_block = _multiplied(edit, name, stored, steps_in_order(edit, name, tiles, before), before)
    else:
        table = codes(edit, name, stored, before)
        by_block = scales(edit, name, stored, before)
    result = edit.node(
        "MatMulNBits",
        [x, table, by_block],
        output,
        domain=MICROSOFT,
        before=before,
        K=stored.num_inputs,
        N=stored.num_outputs,
        bits=stored.bits if stored.bits in KERNEL_BITS else _WIDEST,
        block_size=BLOCK,
        accuracy_level=_ACCURACY_LEVEL,
    )
    return result, by_block


def expert_weights(
    edit: Editor, stored: QuantizedMatrix, count: int, name: str, before: ir.Node
) -> tuple[ir.Value, ir.Value]:
    """Add the codes (experts, N, bytes) and scales (experts, N, blocks) of the matrices of all experts."""
    packed = edit.constant(f"{name}.codes", stored.packed().reshape(count, stored.num_outputs // count, -1))
    return packed, scales(edit, name, stored, before, outer=(count,))


def experts(
    edit: Editor, node: ir.Node, up: tuple[ir.Value, ir.Value], down: tuple[ir.Value, ir.Value], *, bits: int
) -> ir.Value:
    """Compute what experts in float compute, with stored matrices."""
    return edit.nodes(
        "QMoE",
        [node.inputs[0], node.inputs[1], *up, None, *down],
        [f"{node.outputs[0].name}/nbits"],
        attributes={
            **{name: attribute.value for name, attribute in node.attributes.items()},
            "expert_weight_bits": bits,
            "block_size": BLOCK,
            "accuracy_level": _ACCURACY_LEVEL,
        },
        domain=MICROSOFT,
        before=node,
    )[0]


def codes_of(product: ir.Value) -> ir.Value:
    """Return the codes with which a product multiplies."""
    node = product.producer()
    assert node is not None
    value: ir.Value = node.inputs[1]
    return value


def rows_of(edit: Editor, name: str, stored: QuantizedMatrix, computed: ir.Value | None, before: ir.Node) -> ir.Value:
    """Return a table's codes for lookups by row, made from those of a product if nodes compute these.

    They are (N, K), or (N, K / 2) of 4 bits.
    """
    if computed is None or computed.producer() is None:
        return edit.constant(f"{name}.codes", stored.packed().reshape(stored.num_outputs, -1))
    shape = edit.constant("shape_table", np.array([stored.num_outputs, -1], np.int64))
    return edit.node("Reshape", [computed, shape], f"{name}.codes", before=before)


def lookup(
    edit: Editor,
    table: ir.Value,
    indices: ir.Value,
    by_block: ir.Value,
    stored: QuantizedMatrix,
    output: str,
    before: ir.Node | None = None,
) -> ir.Value:
    """Look up rows of a table of `rows_of` in float."""
    return edit.node(
        "GatherBlockQuantized",
        [table, indices, by_block],
        output,
        domain=MICROSOFT,
        before=before,
        bits=4 if stored.bits == 4 else _WIDEST,
        block_size=BLOCK,
        gather_axis=0,
        quantize_axis=1,
    )
