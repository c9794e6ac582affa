"""The two forms in which a matrix is stored: codes of 4 or 8 bits in blocks of 32 inputs, each with a float16 scale.

What a file holds and what MatMulNBits computes with are the same numbers: code - 2^(bits-1), times the scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Bits = Literal[4, 8]
BLOCK = 32

_CLIP_RATIOS = (1.0, 0.97, 0.94, 0.91, 0.88, 0.84, 0.80, 0.75)
_SMALLEST_SCALE = np.float32(6e-8)  # the smallest float16 above zero


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """N outputs times K inputs: codes (N, K padded to blocks) uint8, scales (N, blocks) float16."""

    bits: Bits
    num_inputs: int
    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]

    @property
    def num_outputs(self) -> int:
        """N."""
        return len(self.codes)

    def packed(self) -> NDArray[np.uint8]:
        """(N, blocks, bytes a block), low four bits first: what MatMulNBits reads."""
        blocks = self.codes.reshape(self.num_outputs, -1, BLOCK)
        if self.bits == 8:
            return np.ascontiguousarray(blocks)
        low, high = blocks[..., 0::2], blocks[..., 1::2]
        return np.asarray(low | (high << 4), np.uint8)

    def dequantized(self) -> NDArray[np.float32]:
        """(N, K) as the kernel sees it."""
        values = self.codes.astype(np.float32) - np.float32(midpoint(self.bits))
        values *= np.repeat(self.scales.astype(np.float32), BLOCK, axis=1)
        return values[:, : self.num_inputs]


def midpoint(bits: Bits) -> int:
    """The code that stands for zero."""
    return 1 << (bits - 1)


def matrix_bytes(num_outputs: int, num_inputs: int, bits: Bits) -> int:
    """What a matrix takes in the file."""
    blocks = -(-num_inputs // BLOCK)
    return num_outputs * blocks * (BLOCK * bits // 8 + 2)


def pad_to_blocks(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, K) with zero inputs appended up to whole blocks."""
    missing = -weight.shape[1] % BLOCK
    return np.pad(weight, ((0, 0), (0, missing))) if missing else weight


def round_to_nearest(weight: NDArray[np.float32], bits: Bits) -> QuantizedMatrix:
    """Each weight to its closest code; (N, K) float32."""
    padded = pad_to_blocks(weight)
    codes, scales = np.empty(padded.shape, np.uint8), np.empty((len(padded), padded.shape[1] // BLOCK), np.float16)
    for block in range(scales.shape[1]):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        scale = block_scale(padded[:, part], bits)
        scales[:, block] = scale
        codes[:, part] = encode(padded[:, part], scale, bits)
    return QuantizedMatrix(bits, weight.shape[1], codes, scales)


def encode(values: NDArray[np.float32], scale: NDArray[np.float32], bits: Bits) -> NDArray[np.uint8]:
    """Codes of (N, n) values with one scale a row."""
    codes = np.rint(values / scale[:, None]) + np.float32(midpoint(bits))
    return np.asarray(np.clip(codes, 0, (1 << bits) - 1), np.uint8)


def block_scale(
    values: NDArray[np.float32], bits: Bits, importance: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """One scale a row for a block (N, n), already rounded to float16.

    8 bits: the largest magnitude over 127. 4 bits: of several clippings the one with the least squared error, weighted
    by `importance` (n,); the scale's sign gives the larger side the extra level.
    """
    largest = np.abs(values).max(axis=1)
    if bits == 8:
        return storable(largest / np.float32(127))
    where = np.abs(values).argmax(axis=1)
    sign = np.where(np.take_along_axis(values, where[:, None], 1)[:, 0] > 0, np.float32(-1), np.float32(1))
    best = storable(sign * largest / np.float32(8))
    least = _error(values, best, bits, importance)
    for ratio in _CLIP_RATIOS:
        for limit in (sign * np.float32(8), np.float32(7)):
            scale = storable(largest * np.float32(ratio) / limit)
            error = _error(values, scale, bits, importance)
            best = np.where(error < least, scale, best)
            least = np.minimum(error, least)
    return best


def storable(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales as the file will hold them: rounded to float16, never zero."""
    rounded = np.asarray(scale, np.float16).astype(np.float32)
    return np.where(rounded == 0, _SMALLEST_SCALE, rounded).astype(np.float32)


def _error(
    values: NDArray[np.float32], scale: NDArray[np.float32], bits: Bits, importance: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    middle = midpoint(bits)
    codes = np.clip(np.rint(values / scale[:, None]), -middle, middle - 1)
    error = np.square(codes * scale[:, None] - values)
    if importance is not None:
        error = error * importance
    total: NDArray[np.float32] = error.sum(axis=1)
    return total
