"""The stored form of a matrix: codes of 4, 5, 6 or 8 bits in blocks of 32 inputs, with a scale for each block.

A scale is a whole number of its row's unit, so that it takes one byte. The file holds the same numbers with which
MatMulNBits computes: code - 2^(bits-1), times the scale. The operator reads 4 and 8 bits; 5 and 6 lie in the file as
two planes, the low four bits and those above, which become the upper bits of 8 when the model is loaded. Lantern's
kernels pack them to 5 and 6 bits again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Bits = Literal[4, 5, 6, 8]
BLOCK = 32
KERNEL_BITS: frozenset[Bits] = frozenset({4, 8})
MOST_STEPS: dict[Bits, int] = {4: 127, 5: 127, 6: 127, 8: 255}  # of a row's unit in one scale; no sign in 8 bits
HEAD_WIDTHS: tuple[Bits, ...] = (6, 8)  # of a decoder's head, if the scheme leaves a choice, else 8

_CLIP_RATIOS = (1.0, 0.97, 0.94, 0.91, 0.88, 0.84, 0.80, 0.75)
_CHUNK_ROWS = 4096  # that are rounded at a time
_LOW_BITS = 4  # of the lower plane
_SMALLEST_UNIT = np.float32(6e-8)  # the smallest float16 above zero

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """A matrix of N outputs times K inputs, as the file holds it.

    codes (N, K padded to blocks) uint8; steps (N, blocks), the scales in units, int8 or (of 8 bits) uint8;
    units (N, 1) float16.
    """

    bits: Bits
    num_inputs: int
    codes: NDArray[np.uint8]
    steps: NDArray[np.int8] | NDArray[np.uint8]
    units: NDArray[np.float16]

    @property
    def num_outputs(self) -> int:
        """The number of outputs, N."""
        return len(self.codes)

    def packed(self) -> NDArray[np.uint8]:
        """Pack 4 or 8 bits as MatMulNBits reads them: (N, blocks, bytes a block), low four bits first."""
        blocks = self.codes.reshape(self.num_outputs, -1, BLOCK)
        if self.bits == 8:
            return np.ascontiguousarray(blocks)
        low, high = blocks[..., 0::2], blocks[..., 1::2]
        return np.asarray(low | (high << 4), np.uint8)

    def planes(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Split the codes into the low four bits (N, 1, K/2) and those above (N, 1, K/8 or K/4); see `plane_shifts`."""
        low = _joined(self.codes & np.uint8(15), _LOW_BITS)
        return low, _joined(self.codes >> np.uint8(_LOW_BITS), self.bits - _LOW_BITS)

    @property
    def scales(self) -> Float32:
        """The scales (N, blocks)."""
        return np.asarray(self.steps.astype(np.float32) * self.units.astype(np.float32), np.float32)

    def dequantized(self) -> Float32:
        """Return the weights (N, K) with which the kernel computes."""
        values = self.codes.astype(np.float32) - np.float32(midpoint(self.bits))
        values *= np.repeat(self.scales, BLOCK, axis=1)
        return values[:, : self.num_inputs]

    def rows(self, part: slice) -> QuantizedMatrix:
        """Select some of the outputs."""
        return QuantizedMatrix(self.bits, self.num_inputs, self.codes[part], self.steps[part], self.units[part])


def join_rows(parts: Sequence[QuantizedMatrix]) -> QuantizedMatrix:
    """Put the outputs of several matrices of the same inputs and width one below the other."""
    codes, steps, units = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("codes", "steps", "units")
    )
    return replace(parts[0], codes=codes, steps=steps, units=units)


def plane_shifts(bits: int) -> NDArray[np.uint8]:
    """Return a plane's shifts (8/bits, 1): byte k holds code k in its lowest bits, then code k + K * bits/8, ..."""
    return np.arange(0, 8, bits, dtype=np.uint8)[:, None]


def from_planes(low: NDArray[np.uint8], high: NDArray[np.uint8], bits: Bits) -> NDArray[np.uint8]:
    """Join two planes into codes (N, K)."""
    upper = _apart(high, bits - _LOW_BITS)
    return np.asarray(_apart(low, _LOW_BITS) | (upper << np.uint8(_LOW_BITS)), np.uint8)


def midpoint(bits: Bits) -> int:
    """Return the code that stands for zero."""
    return 1 << (bits - 1)


def matrix_bytes(num_outputs: int, num_inputs: int, bits: Bits) -> int:
    """Return the bytes of a matrix in the file."""
    blocks = -(-num_inputs // BLOCK)
    return num_outputs * (blocks * (BLOCK * bits // 8 + 1) + 2)


def pad_to_blocks(weight: Float32) -> Float32:
    """Append zero inputs to (N, K) up to whole blocks."""
    missing = -weight.shape[1] % BLOCK
    return np.pad(weight, ((0, 0), (0, missing))) if missing else weight


def round_to_nearest(weight: NDArray[np.floating], bits: Bits) -> QuantizedMatrix:
    """Round each weight of (N, K) to its closest code, some rows at a time: the matrix may lie in a mapped file."""
    blocks = -(-weight.shape[1] // BLOCK)
    codes = np.empty((len(weight), blocks * BLOCK), np.uint8)
    steps = np.empty((len(weight), blocks), np.uint8 if bits == 8 else np.int8)
    units = np.empty((len(weight), 1), np.float16)
    for at in range(0, len(weight), _CHUNK_ROWS):
        part = slice(at, at + _CHUNK_ROWS)
        found = _rounded_rows(np.ascontiguousarray(weight[part], np.float32), bits)
        codes[part], steps[part], units[part] = found.codes, found.steps, found.units
    return QuantizedMatrix(bits, weight.shape[1], codes, steps, units)


def _rounded_rows(weight: Float32, bits: Bits) -> QuantizedMatrix:
    padded, units = pad_to_blocks(weight), row_units(weight, bits)
    codes, scales = np.empty(padded.shape, np.uint8), np.empty((len(padded), padded.shape[1] // BLOCK), np.float32)
    for block in range(scales.shape[1]):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        scales[:, block] = block_scale(padded[:, part], bits, units)
        codes[:, part] = encode(padded[:, part], scales[:, block], bits)
    return stored_matrix(weight.shape[1], bits, codes, scales, units)


def stored_matrix(
    num_inputs: int, bits: Bits, codes: NDArray[np.uint8], scales: Float32, units: Float32
) -> QuantizedMatrix:
    """Make a matrix from codes and the scales of `storable`."""
    steps = np.rint(scales / units[:, None]).astype(np.uint8 if bits == 8 else np.int8)
    return QuantizedMatrix(bits, num_inputs, codes, steps, units[:, None].astype(np.float16))


def encode(values: Float32, scale: Float32, bits: Bits) -> NDArray[np.uint8]:
    """Return the codes of (N, n) values with one scale a row."""
    codes = np.rint(values / scale[:, None]) + np.float32(midpoint(bits))
    return np.asarray(np.clip(codes, 0, (1 << bits) - 1), np.uint8)


def row_units(weight: Float32, bits: Bits) -> Float32:
    """Return the unit (N,) of each row's scales: exact in float16, and large enough for the row's largest scale."""
    most = np.abs(weight).max(axis=1) / np.float32(midpoint(bits) - 1) / np.float32(MOST_STEPS[bits])
    units = most.astype(np.float16)
    units = np.where(units.astype(np.float32) < most, np.nextafter(units, np.float16(np.inf)), units)
    stored = np.maximum(units.astype(np.float32), _SMALLEST_UNIT).astype(np.float16)
    return np.asarray(stored, np.float32)


def block_scale(values: Float32, bits: Bits, units: Float32, importance: Float32 | None = None) -> Float32:
    """Choose one scale a row for a block (N, n), as the file can hold it.

    8 bits: the largest magnitude over 127. Fewer: of several clippings the one with the least squared error, weighted
    by `importance` (n,); the scale's sign gives the larger side the extra level.
    """
    largest = np.abs(values).max(axis=1)
    if bits == 8:
        steps = np.clip(np.ceil(largest / np.float32(127) / units), 1, MOST_STEPS[8])
        return np.asarray(steps * units, np.float32)
    where = np.abs(values).argmax(axis=1)
    sign = np.where(np.take_along_axis(values, where[:, None], 1)[:, 0] > 0, np.float32(-1), np.float32(1))
    middle = np.float32(midpoint(bits))
    best = storable(sign * largest / middle, units, bits)
    least = _error(values, best, bits, importance)
    for ratio in _CLIP_RATIOS:
        for limit in (sign * middle, middle - 1):
            scale = storable(largest * np.float32(ratio) / limit, units, bits)
            error = _error(values, scale, bits, importance)
            best = np.where(error < least, scale, best)
            least = np.minimum(error, least)
    return best


def storable(scale: Float32, units: Float32, bits: Bits) -> Float32:
    """Round scales (N,) or (N, blocks) to whole steps of the row's unit, never zero, as the file holds them."""
    column, most = units if scale.ndim == 1 else units[:, None], MOST_STEPS[bits]
    steps = np.clip(np.rint(scale / column), 1 if bits == 8 else -most, most)
    return np.asarray(np.where(steps == 0, np.float32(1), steps) * column, np.float32)


def _joined(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    shifts = plane_shifts(bits)
    parts = codes.reshape(len(codes), len(shifts), -1) << shifts
    return np.asarray(np.bitwise_or.reduce(parts, axis=1, keepdims=True), np.uint8)


def _apart(plane: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    codes = (plane >> plane_shifts(bits)) & np.uint8((1 << bits) - 1)
    return np.asarray(codes.reshape(len(plane), -1), np.uint8)


def _error(values: Float32, scale: Float32, bits: Bits, importance: Float32 | None) -> Float32:
    middle = midpoint(bits)
    codes = np.clip(np.rint(values / scale[:, None]), -middle, middle - 1)
    error = np.square(codes * scale[:, None] - values)
    if importance is not None:
        error = error * importance
    total: Float32 = error.sum(axis=1)
    return total
