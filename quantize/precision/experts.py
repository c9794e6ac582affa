"""The experts of a layer, fitted one by one to the tokens that the router gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from quantize.graph.codec import Bits, Float32, QuantizedMatrix, join_rows
from quantize.precision.gptq import Moments, gptq
from quantize.precision.matrices import Matrix
from quantize.precision.mixtures import Mixture
from quantize.precision.moments import second_moments

_COMMON = 512  # tokens of any expert, at most, that stand for those that the calibration text does not have
_COMMON_WEIGHT = 8.0  # tokens' worth of them


@dataclass(slots=True)
class FittedMatrix:
    """A matrix of all experts in several widths: its parts so far, and the squared error of its outputs."""

    parts: dict[Bits, list[QuantizedMatrix]] = field(default_factory=dict)
    errors: dict[Bits, float] = field(default_factory=dict)

    def add(self, weight: Float32, moments: Moments, widths: Sequence[Bits]) -> None:
        """Fit the matrix of the next expert."""
        for bits in widths:
            fit = gptq(weight, moments, bits)
            self.parts.setdefault(bits, []).append(fit.stored)
            self.errors[bits] = self.errors.get(bits, 0.0) + float(fit.errors.sum())

    def stored(self) -> Iterator[QuantizedMatrix]:
        """Yield the whole matrix in each width."""
        return (join_rows(parts) for parts in self.parts.values())


def fit_experts(
    mixture: Mixture, rows: Float32, scores: Float32, widths: Sequence[Bits]
) -> tuple[FittedMatrix, FittedMatrix]:
    """Fit both matrices of all experts to rows (T, hidden) with their scores (T, experts).

    An expert's moments are those of its own tokens, and of a few of any expert: one that the text never chooses is
    rounded for them alone.
    """
    common = np.ascontiguousarray(rows[:: -(-len(rows) // _COMMON)])
    share = np.float32(_COMMON_WEIGHT / len(common))
    of_common = second_moments(common) * share
    best = np.argsort(-scores, axis=1, kind="stable")[:, : mixture.chosen]
    fitted = FittedMatrix(), FittedMatrix()
    for expert in range(mixture.count):
        own = np.ascontiguousarray(rows[(best == expert).any(axis=1)])
        first, last = (_matrix_of(matrix, expert) for matrix in (mixture.up, mixture.down))
        fitted[0].add(first, Moments.of(_summed(own, of_common)), widths)
        between = second_moments(_activated(common, first)) * share
        fitted[1].add(last, Moments.of(_summed(_activated(own, first), between)), widths)
    return fitted


def _summed(own: Float32, common: NDArray[np.float32]) -> Float32:
    return second_moments(own) + common if len(own) else common


def _matrix_of(matrix: Matrix, expert: int) -> Float32:
    rows = matrix.num_outputs // matrix.num_experts
    return np.array(matrix.view()[expert * rows : (expert + 1) * rows], np.float32, order="C")


def _activated(rows: Float32, first: Float32) -> Float32:
    """Return what an expert's second product multiplies."""
    product = torch.from_numpy(rows) @ torch.from_numpy(first).T
    found: Float32 = (torch.nn.functional.silu(product[:, 0::2]) * product[:, 1::2]).numpy()
    return np.ascontiguousarray(found)
