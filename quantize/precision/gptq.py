"""GPTQ (arXiv:2210.17323): the columns that are not yet rounded compensate each column's rounding error.

Columns are rounded in the order of their importance while each keeps its place and its block, so that the kernel sees
nothing of it. Below 8 bits the scales are then improved for the codes found, and the codes once more for those scales.

All products are torch's, of one thread: their bits then depend on no number of cores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from appliance.errors import QuantizeError
from quantize.graph.codec import (
    BLOCK,
    Bits,
    Float32,
    QuantizedMatrix,
    block_scale,
    encode,
    midpoint,
    pad_to_blocks,
    row_units,
    storable,
    stored_matrix,
)

_DAMPING = 0.01
_MAX_DAMPING = 1e4
_NUM_ROUNDS = 2
_REFIT_DAMPING = 1e-3
_REFIT_STEPS = 2  # of conjugate gradients
_CHUNK_ROWS = 512
_SMALLEST = 1e-30  # keeps a division by a curvature of zero finite


@dataclass(frozen=True, slots=True)
class Moments:
    """The second moments of a matrix's inputs, prepared once for every matrix and width that they serve.

    hessian (K, K) is the sum of x x^T; order (K,) lists the columns, the most important first. For damped moments
    R R^T in that order, R upper triangular, carry (K, K) is R with each column divided by its diagonal: the share of an
    earlier column's error that a later one takes over.
    """

    hessian: Float32
    order: NDArray[np.intp]
    carry: Float32

    @classmethod
    def of(cls, hessian: Float32) -> Moments:
        """Factor the sum of x x^T.

        Raises:
            QuantizeError: it is not finite, or singular at every damping.
        """
        if not np.isfinite(hessian).all():
            raise QuantizeError("the calibration text makes the model overflow; its weights are damaged")
        order = np.argsort(-_importance(hessian), kind="stable")
        return cls(hessian, order, _carry(hessian, order))

    @property
    def importance(self) -> Float32:
        """The weight of each column's error (K,)."""
        return _importance(self.hessian)


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted matrix, and the squared error of each output over the calibration text (N,)."""

    stored: QuantizedMatrix
    errors: Float32

    def better_rows(self, other: Fit) -> Fit:
        """Take each row from the fit with the smaller error; equal rows from this one."""
        mine, old, new = self.errors <= other.errors, self.stored, other.stored
        codes, steps = np.where(mine[:, None], old.codes, new.codes), np.where(mine[:, None], old.steps, new.steps)
        stored = QuantizedMatrix(old.bits, old.num_inputs, codes, steps, old.units)
        return Fit(stored, np.minimum(self.errors, other.errors))


def gptq(weight: Float32, moments: Moments, bits: Bits, *, num_rounds: int = _NUM_ROUNDS) -> Fit:
    """Quantize (N, K) so that the error of its outputs is least for inputs of these moments."""
    padded, units = pad_to_blocks(weight), row_units(weight, bits)
    importance = np.pad(moments.importance, (0, padded.shape[1] - weight.shape[1]))
    parts = [slice(at, at + BLOCK) for at in range(0, padded.shape[1], BLOCK)]
    scales = np.stack([block_scale(padded[:, part], bits, units, importance[part]) for part in parts], axis=1)
    found: Fit | None = None
    for _ in range(1 if bits == 8 else num_rounds):
        codes = _round_columns(weight, scales, moments, bits)
        if bits != 8:  # refitting cannot improve its scales
            scales = storable(_refit_scales(padded, moments.hessian, codes, scales, bits), units, bits)
        stored = stored_matrix(weight.shape[1], bits, codes, scales, units)
        fit = Fit(stored, row_errors(weight, stored, moments.hessian))
        found = fit if found is None else found.better_rows(fit)
    assert found is not None
    return found


def gptq_rows(weight: Float32, hessian: Float32, scales: Float32) -> NDArray[np.int8]:
    """Quantize (N, K) to int8 codes with one scale a row (N,), so that the error of its outputs is least."""
    blocks = -(-weight.shape[1] // BLOCK)
    with one_thread():
        codes = _round_columns(weight, np.repeat(scales[:, None], blocks, axis=1), Moments.of(hessian), 8)
    return (codes[:, : weight.shape[1]].astype(np.int16) - midpoint(8)).astype(np.int8)


def row_errors(weight: Float32, stored: QuantizedMatrix, hessian: Float32) -> Float32:
    """Return the squared error of each output over the calibration text."""
    moments = torch.from_numpy(hessian)
    errors = np.empty(len(weight), np.float32)
    for rows in _row_chunks(len(weight)):
        difference = torch.from_numpy(stored.rows(rows).dequantized() - weight[rows])
        errors[rows] = (difference @ moments).mul_(difference).sum(dim=1).numpy()
    return np.maximum(errors, np.float32(0))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch on one thread: many small products are slower on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _importance(hessian: Float32) -> Float32:
    return np.maximum(np.diagonal(hessian), np.float32(1e-8))


def _carry(hessian: Float32, order: NDArray[np.intp]) -> Float32:
    """Factor the damped moments in the given order; the damping rises until they can be factored.

    The factor of the reversed matrix is lower triangular, so that no inverse is needed. It takes the matrix's own
    place: with the moments these are the largest arrays of a build.
    """
    damping = _DAMPING
    while damping <= _MAX_DAMPING:
        matrix = _reversed(hessian, order)
        mean = float(matrix.diagonal().mean()) or 1.0
        matrix.diagonal().add_(damping * mean)
        failed = torch.zeros((), dtype=torch.int32)
        # LAPACK works on columns: a contiguous output would be a second matrix. The transpose of a symmetric one is it.
        torch.linalg.cholesky_ex(matrix.T, out=(matrix.T, failed))
        if not failed:
            lower, carry = matrix.T, np.empty_like(hessian)
            lower /= lower.diagonal().clone()
            for rows in _row_chunks(len(carry)):
                part = lower[len(carry) - rows.stop : len(carry) - rows.start]
                carry[rows] = part.float().flip(0, 1).numpy()
            return carry
        damping *= 10
    raise QuantizeError("a matrix of the model cannot be calibrated: its inputs have no usable second moments")


def _reversed(hessian: Float32, order: NDArray[np.intp]) -> torch.Tensor:
    """Return the moments in double precision, the least important column first."""
    backwards = order[::-1]
    matrix = torch.empty(hessian.shape, dtype=torch.float64)
    for rows in _row_chunks(len(hessian)):
        matrix[rows] = torch.from_numpy(hessian[np.ix_(backwards[rows], backwards)])
    return matrix


def _round_columns(weight: Float32, scales: Float32, moments: Moments, bits: Bits) -> NDArray[np.uint8]:
    """Return codes (N, padded K) for given scales."""
    num_outputs, middle = len(weight), np.float32(midpoint(bits))
    order, carry = moments.order, moments.carry
    columns = np.ascontiguousarray(weight.T[order])
    wanted, by_block = torch.from_numpy(columns.copy()), np.ascontiguousarray(scales.T)
    codes = np.full((scales.shape[1] * BLOCK, num_outputs), midpoint(bits), np.uint8)
    for start in range(0, len(order), BLOCK):
        stop = min(start + BLOCK, len(order))
        inside = wanted[start:stop].numpy()
        errors = np.empty_like(inside)
        for at in range(start, stop):
            scale = by_block[order[at] // BLOCK]
            code = encode(inside[at - start][:, None], scale, bits)[:, 0]
            codes[order[at]] = code
            errors[at - start] = error = columns[at] - (code.astype(np.float32) - middle) * scale
            inside[at - start + 1 :] += carry[at, at + 1 : stop, None] * error
        wanted[stop:].addmm_(torch.from_numpy(carry[start:stop, stop:]).T, torch.from_numpy(errors))
    return np.ascontiguousarray(codes.T)


def _refit_scales(padded: Float32, hessian: Float32, codes: NDArray[np.uint8], scales: Float32, bits: Bits) -> Float32:
    """Lower the output error by other scales for the same codes (N, padded K).

    The best ones solve a linear system a row, one unknown a block. A few steps of conjugate gradients from the present
    scales come close, for a product with the moments each; the systems themselves would take more time and memory
    than everything else, since they grow with the square of the number of blocks.
    """
    moments = torch.from_numpy(hessian)
    refitted = np.empty_like(scales)
    for rows in _row_chunks(len(scales)):
        levels = torch.from_numpy(codes[rows].astype(np.float32) - np.float32(midpoint(bits)))
        wanted = torch.from_numpy(padded[rows])[:, : len(moments)]
        refitted[rows] = _descend(wanted, moments, levels, torch.from_numpy(scales[rows])).numpy()
    return refitted


def _descend(wanted: torch.Tensor, moments: torch.Tensor, levels: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Take the steps from `start` for weights (N, K) and levels (N, padded K), and return the scales (N, blocks)."""
    num_outputs, num_inputs = wanted.shape
    by_block = levels.view(num_outputs, -1, BLOCK)
    products = torch.zeros_like(levels)

    def spread(by_scale: torch.Tensor) -> torch.Tensor:
        return (by_block * by_scale[:, :, None]).view(num_outputs, -1)[:, :num_inputs]

    def block_sums(values: torch.Tensor) -> torch.Tensor:
        torch.mul(values @ moments, levels[:, :num_inputs], out=products[:, :num_inputs])
        return products.view_as(by_block).sum(2)

    curvature = _block_curvature(by_block, moments)
    damping = curvature.mean(1, keepdim=True) * _REFIT_DAMPING + 1e-12
    change, residual = torch.zeros_like(start), block_sums(wanted - spread(start))
    direction = scaled = residual / (curvature + damping)
    size = (residual * scaled).sum(1, keepdim=True)
    for step in range(_REFIT_STEPS):
        image = block_sums(spread(direction)) + damping * direction
        length = size / (direction * image).sum(1, keepdim=True).clamp_min(_SMALLEST)
        change += length * direction
        if step + 1 < _REFIT_STEPS:
            residual = residual - length * image
            scaled = residual / (curvature + damping)
            before, size = size, (residual * scaled).sum(1, keepdim=True)
            direction = scaled + size / before.clamp_min(_SMALLEST) * direction
    return start + change


def _block_curvature(by_block: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """Return each scale's own curvature (N, blocks): its codes times the moments within the block, squared."""
    missing = by_block.shape[1] * BLOCK - len(moments)
    found = []
    for block in range(by_block.shape[1]):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        within = torch.nn.functional.pad(moments[part, part], (0, missing) * 2) if missing else moments[part, part]
        found.append(((by_block[:, block] @ within[:BLOCK, :BLOCK]) * by_block[:, block]).sum(1))
    return torch.stack(found, dim=1)


def _row_chunks(num_rows: int) -> list[slice]:
    """Cut rows into chunks whose products stay in the cache."""
    return [slice(at, min(at + _CHUNK_ROWS, num_rows)) for at in range(0, num_rows, _CHUNK_ROWS)]
