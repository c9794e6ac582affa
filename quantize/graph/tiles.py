"""A matrix in the order in which Lantern's kernels read it, so that a device can map it where it lies in the bundle.

Sixteen rows are a tile; docs/kernels.md and appliance/engine/kernels/sources/codes.h tell how the codes of a tile lie.
The graph puts them into the order of MatMulNBits by operators of ONNX, for devices that do without our kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from quantize.graph.codec import BLOCK, MOST_STEPS, Bits, Float32, QuantizedMatrix
from quantize.graph.edit import Editor

# What the names of a matrix's three tensors end with. They lie one behind the other, each at a multiple of 64 bytes.
CODES, STEPS, UNITS = PARTS = (".tile_codes", ".tile_steps", ".tile_units")

# Memory for each code, beyond that of the loaded form, which onnxruntime 1.32 holds until it has folded the last one if
# nobody has put the codes in order before; measured with matrices of 33 million codes.
FOLDING_BYTES: Final[Mapping[Bits, int]] = {4: 9, 5: 18, 6: 19, 8: 4}

_ROWS, _COLUMNS = 16, 4  # of a vector: that many columns of each row of the tile
_BYTE = 8
_MOST_BLOCKS = 512  # of a row, in a tile whose scales are steps
_SIGN = np.uint8(0x80)  # codes of 8 bits lie less 128


class _Term(NamedTuple):
    """Some bits of a vector's codes: where they are in a byte of a chunk, and in the code."""

    chunk: int
    at: int
    width: int
    low: int


def _whole(chunk: int, bits: int) -> tuple[_Term, ...]:
    return (_Term(chunk, 0, bits, 0),)


# The terms of the vectors of a group of columns, as codes.h has them; 8 bits are bytes.
_VECTORS: Final[Mapping[int, tuple[tuple[_Term, ...], ...]]] = {
    4: (_whole(0, 4), (_Term(0, 4, 4, 0),)),
    5: (
        *(_whole(chunk, 5) for chunk in range(5)),
        (_Term(0, 5, 3, 2), _Term(1, 5, 2, 0)),
        (_Term(2, 5, 3, 2), _Term(3, 5, 2, 0)),
        (_Term(4, 5, 3, 2), _Term(1, 7, 1, 1), _Term(3, 7, 1, 0)),
    ),
    6: (*(_whole(chunk, 6) for chunk in range(3)), (_Term(0, 6, 2, 4), _Term(1, 6, 2, 2), _Term(2, 6, 2, 0))),
    8: (_whole(0, 8),),
}


@dataclass(frozen=True, slots=True)
class Tiles:
    """A matrix of N outputs and K inputs, B blocks a row, in T = N / 16 tiles.

    codes (T, groups of columns, chunks, 16, 4) uint8; steps (T, B, 16), uint8 of 8 bits, else int8; units (N, 1)
    float32.
    """

    codes: NDArray[np.uint8]
    steps: NDArray[np.integer[Any]]
    units: Float32


def can_be_tiled(stored: QuantizedMatrix) -> bool:
    """Return True if the kernels can take a matrix whose tiles are all whole."""
    return stored.num_outputs % _ROWS == 0 and stored.steps.shape[1] <= _MOST_BLOCKS


def tiles_of(stored: QuantizedMatrix) -> Tiles:
    """Put a matrix in order; its scales are the same floats, as the kernels' packing writes them."""
    vectors = _VECTORS[stored.bits]
    num_tiles, num_vectors = stored.num_outputs // _ROWS, len(vectors)
    shape = (num_tiles, _ROWS, -1, num_vectors, _COLUMNS)
    codes = stored.codes.reshape(shape).transpose(0, 2, 3, 1, 4)
    if stored.bits == _BYTE:
        packed = codes ^ _SIGN
    else:
        packed = np.zeros((num_tiles, codes.shape[1], num_vectors * stored.bits // _BYTE, _ROWS, _COLUMNS), np.uint8)
        for vector, terms in enumerate(vectors):
            for term in terms:
                part = codes[:, :, vector] >> np.uint8(term.low) & np.uint8((1 << term.width) - 1)
                packed[:, :, term.chunk] |= part << np.uint8(term.at)
    steps, units = _steps_of(stored)
    by_tile = steps.reshape(num_tiles, _ROWS, -1).transpose(0, 2, 1)
    return Tiles(np.ascontiguousarray(packed), np.ascontiguousarray(by_tile), units[:, None])


def codes_in_order(edit: Editor, name: str, stored: QuantizedMatrix, tiles: Tiles, before: ir.Node | None) -> ir.Value:
    """Add codes in tiles, and the nodes that put them in the order of MatMulNBits: (N, blocks, bytes a block).

    5 and 6 bits become the upper bits of 8.
    """
    bits, count = stored.bits, stored.num_outputs
    value = edit.constant(f"{name}{CODES}", tiles.codes)
    if bits == _BYTE:
        sign = edit.constant("tile_8.sign", np.asarray(_SIGN))
        value = edit.node("BitwiseXor", [value, sign], f"{name}.unsigned", before=before)
    else:
        value = _vectors(edit, name, value, bits, before)
    value = edit.node("Transpose", [value], f"{name}.rows", before=before, perm=[0, 3, 1, 2, 4])
    blocks = stored.steps.shape[1]
    if bits != 4:
        shape = edit.constant(f"tile_{count}.{blocks}", np.array([count, blocks, BLOCK], np.int64))
        return edit.node("Reshape", [value, shape], f"{name}.codes", before=before)
    shape = edit.constant(f"tile_{count}.{blocks}.pairs", np.array([count, blocks, BLOCK // 2, 2], np.int64))
    pairs = edit.node("Reshape", [value, shape], f"{name}.pairs", before=before)
    halves = [
        edit.node(
            "Gather", [pairs, edit.constant(f"tile_4.{half}", np.int64(half))], f"{name}.{half}", before=before, axis=3
        )
        for half in (0, 1)
    ]
    high = _shifted(edit, f"{name}.high", halves[1], np.uint8(4), "LEFT", before)
    return edit.node("BitwiseOr", [halves[0], high], f"{name}.codes", before=before)


def steps_in_order(edit: Editor, name: str, tiles: Tiles, before: ir.Node | None) -> tuple[ir.Value, ir.Value]:
    """Add the steps in tiles, and nodes that give them as floats (N, blocks); and the units (N, 1)."""
    num_tiles, blocks, _ = tiles.steps.shape
    steps = edit.constant(f"{name}{STEPS}", tiles.steps)
    units = edit.constant(f"{name}{UNITS}", tiles.units)
    value = edit.node("Cast", [steps], f"{name}.steps_f32", before=before, to=ir.DataType.FLOAT)
    value = edit.node("Transpose", [value], f"{name}.steps_by_row", before=before, perm=[0, 2, 1])
    shape = edit.constant(f"tile_{num_tiles * _ROWS}.{blocks}.steps", np.array([num_tiles * _ROWS, blocks], np.int64))
    return edit.node("Reshape", [value, shape], f"{name}.steps", before=before), units


def _vectors(edit: Editor, name: str, chunks: ir.Value, bits: Bits, before: ir.Node | None) -> ir.Value:
    """Add nodes that take the codes out of their bytes: (T, groups, vectors, 16, 4); one round for each term."""
    empty = 0 if bits == 4 else _BYTE - bits
    rounds: list[ir.Value] = []
    for index in range(max(map(len, _VECTORS[bits]))):
        terms = [terms[index] if index < len(terms) else _Term(0, 0, 0, 0) for terms in _VECTORS[bits]]
        here, of_bits = f"{name}.part_{index}", f"tile_{bits}.{index}"
        places = edit.constant(f"{of_bits}.chunks", np.array([term.chunk for term in terms], np.int64))
        value = edit.node("Gather", [chunks, places], f"{here}.chunks", before=before, axis=2)
        value = _shifted(edit, f"{here}.right", value, [term.at for term in terms], "RIGHT", before)
        masks = edit.constant(f"{of_bits}.masks", _column([(1 << term.width) - 1 for term in terms]))
        value = edit.node("BitwiseAnd", [value, masks], f"{here}.apart", before=before)
        rounds.append(_shifted(edit, f"{here}.left", value, [term.low + empty for term in terms], "LEFT", before))
    joined = rounds[0]
    for index, value in enumerate(rounds[1:], 1):
        joined = edit.node("BitwiseOr", [joined, value], f"{name}.joined_{index}", before=before)
    return joined


def _shifted(
    edit: Editor,
    output: str,
    value: ir.Value,
    shifts: list[int] | np.uint8,
    direction: Literal["LEFT", "RIGHT"],
    before: ir.Node | None,
) -> ir.Value:
    array = _column(shifts) if isinstance(shifts, list) else np.asarray(shifts)
    if not array.any():
        return value
    constant = edit.constant("shift_" + "_".join(map(str, array.reshape(-1))), array)
    return edit.node("BitShift", [value, constant], output, before=before, direction=direction)


def _column(numbers: list[int]) -> NDArray[np.uint8]:
    """Return a number for each vector of a group."""
    return np.array(numbers, np.uint8)[:, None, None]


def _steps_of(stored: QuantizedMatrix) -> tuple[NDArray[np.integer[Any]], Float32]:
    """Return the steps (N, blocks) and units (N,) of the scales: of all units that fit, the smallest.

    The codec's own unit fits; a row whose steps have a common divisor, or are all small, has smaller ones.
    """
    scales, most = stored.scales, MOST_STEPS[stored.bits]
    largest = np.abs(scales).max(axis=1)
    steps, units = np.array(stored.steps), stored.units[:, 0].astype(np.float32)
    left = np.arange(len(scales))
    for count in range(most, 0, -1):
        unit = np.asarray(largest[left] / np.float32(count), np.float32)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            found = np.rint(scales[left] / unit[:, None])
        fits = ((np.abs(found) <= most) & (found * unit[:, None] == scales[left])).all(axis=1)
        steps[left[fits]], units[left[fits]] = found[fits].astype(steps.dtype), unit[fits]
        left = left[~fits]
        if not left.size:
            break
    return steps, units
