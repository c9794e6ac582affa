"""GPTQ (arXiv:2210.17323): each column's rounding error is made up for by the columns that are not yet rounded.

Columns are rounded in the order of their importance while each keeps its place and its block, so that the kernel sees
nothing of it. Below 8 bits the scales are then solved for the codes found, and the codes once more for those scales.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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


def gptq(weight: Float32, hessian: Float32, bits: Bits, *, num_rounds: int = _NUM_ROUNDS) -> QuantizedMatrix:
    """Quantize (N, K) so that the error of its outputs is least for inputs whose sum of x x^T is `hessian` (K, K)."""
    if not np.isfinite(hessian).all():
        raise QuantizeError("the calibration text makes the model overflow; its weights are damaged")
    importance = np.maximum(np.diagonal(hessian), np.float32(1e-8))
    order = np.argsort(-importance, kind="stable")
    upper = inverse_factor(hessian[np.ix_(order, order)])
    padded, units = pad_to_blocks(weight), row_units(weight, bits)
    padded_importance = np.pad(importance, (0, padded.shape[1] - len(importance)))
    starts = range(0, padded.shape[1], BLOCK)
    scales = np.stack(
        [block_scale(padded[:, at : at + BLOCK], bits, units, padded_importance[at : at + BLOCK]) for at in starts],
        axis=1,
    )
    if bits == 8:  # its scales are as good as they get
        codes = _round_columns(weight, scales, order, upper, bits)
        return stored_matrix(weight.shape[1], bits, codes, scales, units)
    found = []
    for _ in range(num_rounds):
        codes = _round_columns(weight, scales, order, upper, bits)
        scales = storable(_refit_scales(weight, hessian, codes, scales, bits), units, bits)
        found.append(stored_matrix(weight.shape[1], bits, codes, scales, units))
    return min(found, key=lambda stored: output_error(weight, stored, hessian))


def gptq_rows(weight: Float32, hessian: Float32, scales: Float32) -> NDArray[np.int8]:
    """Codes (N, K) of int8 with one scale a row (N,), so that the error of the outputs is least for such inputs."""
    importance = np.maximum(np.diagonal(hessian), np.float32(1e-8))
    order = np.argsort(-importance, kind="stable")
    blocks = -(-weight.shape[1] // BLOCK)
    with one_thread():
        upper = inverse_factor(hessian[np.ix_(order, order)])
        codes = _round_columns(weight, np.repeat(scales[:, None], blocks, axis=1), order, upper, 8)
    return (codes[:, : weight.shape[1]].astype(np.int16) - midpoint(8)).astype(np.int8)


def output_error(weight: Float32, stored: QuantizedMatrix, hessian: Float32) -> float:
    """The squared error of the outputs over the calibration text."""
    return float(row_errors(weight, stored, hessian).sum())


def row_errors(weight: Float32, stored: QuantizedMatrix, hessian: Float32) -> Float32:
    """The same for each output."""
    difference = stored.dequantized() - weight
    return np.asarray(((difference @ hessian) * difference).sum(axis=1), np.float32)


def inverse_factor(hessian: Float32) -> Float32:
    """U with U^T U = (H + damping)^-1, upper triangular; the damping rises until a singular H can be inverted.

    Raises:
        QuantizeError: not even then.
    """
    matrix = torch.from_numpy(hessian).double()
    mean = float(matrix.diagonal().mean()) or 1.0
    damping = _DAMPING
    while damping <= _MAX_DAMPING:
        lower, failed = torch.linalg.cholesky_ex(matrix + torch.eye(len(matrix)) * (damping * mean))
        if not failed:
            factor, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                upper: Float32 = factor.float().contiguous().numpy()
                return upper
        damping *= 10
    raise QuantizeError("a matrix of the model cannot be calibrated: its inputs have no usable second moments")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Many small products: more threads only hurt."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _round_columns(
    weight: Float32, scales: Float32, order: NDArray[np.intp], upper: Float32, bits: Bits
) -> NDArray[np.uint8]:
    """Codes (N, padded K) for given scales."""
    num_outputs, middle = len(weight), np.float32(midpoint(bits))
    columns = np.ascontiguousarray(weight.T[order])
    codes = np.full((scales.shape[1] * BLOCK, num_outputs), midpoint(bits), np.uint8)
    for start in range(0, len(order), BLOCK):
        stop = min(start + BLOCK, len(order))
        errors = np.empty((stop - start, num_outputs), np.float32)
        for at in range(start, stop):
            scale = scales[:, order[at] // BLOCK]
            code = encode(columns[at][:, None], scale, bits)[:, 0]
            codes[order[at]] = code
            error = (columns[at] - (code.astype(np.float32) - middle) * scale) / upper[at, at]
            errors[at - start] = error
            columns[at + 1 : stop] -= upper[at, at + 1 : stop, None] * error
        ahead = torch.from_numpy(upper[start:stop, stop:]).T
        torch.from_numpy(columns[stop:]).addmm_(ahead, torch.from_numpy(errors), alpha=-1)
    return np.ascontiguousarray(codes.T)


def _refit_scales(weight: Float32, hessian: Float32, codes: NDArray[np.uint8], scales: Float32, bits: Bits) -> Float32:
    """The scales with the least output error for these codes: one small linear system a row, held near the old ones."""
    num_outputs, num_blocks = scales.shape
    levels = codes[:, : weight.shape[1]].astype(np.float32) - np.float32(midpoint(bits))
    by_row = torch.from_numpy(levels)
    moments = torch.from_numpy(hessian)
    system = torch.zeros(num_outputs, num_blocks, num_blocks, dtype=torch.float64)
    for block in range(num_blocks):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        system[:, block] = _block_sums(by_row[:, part] @ moments[part] * by_row, num_blocks)
    wanted = _block_sums(torch.from_numpy(weight) @ moments * by_row, num_blocks)
    damping = system.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) * _REFIT_DAMPING + 1e-12
    system.diagonal(dim1=1, dim2=2).add_(damping)
    solved = torch.linalg.solve(system, wanted + damping * torch.from_numpy(scales))
    refitted: Float32 = solved.float().numpy()
    return refitted


def _block_sums(values: torch.Tensor, num_blocks: int) -> torch.Tensor:
    missing = num_blocks * BLOCK - values.shape[1]
    padded = torch.nn.functional.pad(values, (0, missing))
    return padded.reshape(len(values), num_blocks, BLOCK).sum(2, dtype=torch.float64)
