"""GPTQ is worth its time, and no calibration text makes it fail."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.errors import QuantizeError
from quantize.graph.codec import Bits, round_to_nearest
from quantize.precision.gptq import Moments, gptq, row_errors

pytestmark = pytest.mark.slow


def test_gptq_beats_rounding_on_the_error_of_the_outputs() -> None:
    weight, hessian = weight_and_hessian(num_rows=500)
    fitted = gptq(weight, Moments.of(hessian), 4).errors.sum()
    assert fitted < 0.6 * rounding_error(weight, hessian, 4)


def test_the_errors_are_those_of_the_stored_matrix() -> None:
    weight, hessian = weight_and_hessian(num_rows=500)
    fit = gptq(weight, Moments.of(hessian), 4)
    difference = (fit.stored.dequantized() - weight).astype(np.float64)
    np.testing.assert_allclose(fit.errors, ((difference @ hessian) * difference).sum(axis=1), rtol=1e-3)


def test_a_second_round_makes_no_row_worse_and_some_better() -> None:
    weight, hessian = weight_and_hessian(num_rows=500)
    once, twice = (gptq(weight, Moments.of(hessian), 4, num_rounds=n).errors for n in (1, 2))
    assert (twice <= once).all()
    assert (twice < once).any()


def test_refitted_scales_come_close_to_the_best_for_their_codes() -> None:
    weight, hessian = weight_and_hessian(num_rows=500, width=256)
    stored = gptq(weight, Moments.of(hessian), 4, num_rounds=1).stored
    levels = stored.codes.astype(np.float64) - 8
    best = 0.0
    for row, target in zip(levels, weight.astype(np.float64), strict=True):
        spread = np.zeros((256, 8))
        spread[np.arange(256), np.arange(256) // 32] = row
        scales = np.linalg.solve(spread.T @ hessian @ spread, spread.T @ hessian @ target)
        difference = spread @ scales - target
        best += difference @ hessian @ difference
    assert row_errors(weight, stored, hessian).sum() < 1.1 * best


def test_a_singular_hessian_is_survived() -> None:
    weight, hessian = weight_and_hessian(num_rows=3)
    fit = gptq(weight, Moments.of(hessian), 4)
    assert np.isfinite(fit.stored.dequantized()).all()
    assert fit.errors.sum() < rounding_error(weight, hessian, 4)


def test_a_hessian_of_zeros_gives_something_like_rounding() -> None:
    weight, hessian = weight_and_hessian(num_rows=3)
    fitted = gptq(weight, Moments.of(np.zeros_like(hessian)), 4).stored.dequantized()
    assert np.abs(fitted - weight).max() < 0.5 * np.abs(weight).max()


def test_widths_that_blocks_do_not_divide_are_padded() -> None:
    weight, hessian = weight_and_hessian(num_rows=200, width=80)
    fit = gptq(weight, Moments.of(hessian), 4)
    assert fit.stored.dequantized().shape == weight.shape
    assert fit.errors.sum() < 0.6 * rounding_error(weight, hessian, 4)


def test_errors_are_carried_as_the_damped_moments_say() -> None:
    _, hessian = weight_and_hessian(num_rows=500, width=64)
    moments = Moments.of(hessian)
    carry = moments.carry.astype(np.float64)
    damped = hessian + np.eye(64) * 0.01 * np.diagonal(hessian).mean()
    damped = damped[np.ix_(moments.order, moments.order)]
    assert not np.tril(carry, -1).any()
    inverse = np.linalg.inv(carry)
    squares = inverse @ damped @ inverse.T
    np.testing.assert_allclose(squares, np.diag(np.diagonal(squares)), atol=1e-3 * np.diagonal(squares).min())


def test_a_channel_far_larger_than_the_others_is_worth_a_fit_in_int8_as_well() -> None:
    weight, hessian = weight_and_hessian(num_rows=500)
    scale = np.where(np.arange(128) == 7, np.float32(300), np.float32(1))
    hessian = hessian * np.outer(scale, scale)
    fitted = gptq(weight, Moments.of(hessian), 8).errors.sum()
    assert fitted < 0.2 * rounding_error(weight, hessian, 8)


def test_a_calibration_that_overflows_is_refused() -> None:
    _, hessian = weight_and_hessian(num_rows=10)
    hessian[0, 0] = np.inf
    with pytest.raises(QuantizeError, match="overflow"):
        Moments.of(hessian)


def rounding_error(weight: NDArray[np.float32], hessian: NDArray[np.float32], bits: Bits) -> float:
    return float(row_errors(weight, round_to_nearest(weight, bits), hessian).sum())


def weight_and_hessian(*, num_rows: int, width: int = 128) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((width, width)) / np.sqrt(width) + 0.3
    rows = (rng.standard_normal((num_rows, width)) @ mixing).astype(np.float32)
    return rng.standard_normal((32, width)).astype(np.float32), rows.T @ rows
