"""GPTQ is worth its time, and no calibration text makes it fail."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.errors import QuantizeError
from quantize.graph.codec import round_to_nearest
from quantize.precision.gptq import gptq, inverse_factor, output_error


def test_gptq_beats_rounding_on_the_error_of_the_outputs() -> None:
    weight, hessian = weight_and_hessian(num_rows=500)
    fitted = output_error(weight, gptq(weight, hessian, 4), hessian)
    rounded = output_error(weight, round_to_nearest(weight, 4), hessian)
    assert fitted < 0.6 * rounded


def test_a_second_round_does_not_make_it_worse() -> None:
    weight, hessian = weight_and_hessian(num_rows=500)
    once, twice = (output_error(weight, gptq(weight, hessian, 4, num_rounds=n), hessian) for n in (1, 2))
    assert twice <= once


def test_a_singular_hessian_is_survived() -> None:
    weight, hessian = weight_and_hessian(num_rows=3)
    fitted = gptq(weight, hessian, 4)
    assert np.isfinite(fitted.dequantized()).all()
    assert output_error(weight, fitted, hessian) < output_error(weight, round_to_nearest(weight, 4), hessian)


def test_a_hessian_of_zeros_gives_something_like_rounding() -> None:
    weight, hessian = weight_and_hessian(num_rows=3)
    fitted = gptq(weight, np.zeros_like(hessian), 4).dequantized()
    assert np.abs(fitted - weight).max() < 0.5 * np.abs(weight).max()


def test_widths_that_blocks_do_not_divide_are_padded() -> None:
    weight, hessian = weight_and_hessian(num_rows=200, width=80)
    assert gptq(weight, hessian, 4).dequantized().shape == weight.shape


def test_the_factor_inverts_the_hessian() -> None:
    _, hessian = weight_and_hessian(num_rows=500, width=64)
    upper = inverse_factor(hessian).astype(np.float64)
    damped = hessian + np.eye(64) * 0.01 * np.diagonal(hessian).mean()
    np.testing.assert_allclose(upper.T @ upper @ damped, np.eye(64), atol=1e-3)
    assert not np.tril(upper, -1).any()


def test_a_channel_far_larger_than_the_others_is_worth_a_fit_in_int8_as_well() -> None:
    weight, hessian = weight_and_hessian(num_rows=500)
    scale = np.where(np.arange(128) == 7, np.float32(300), np.float32(1))
    hessian = hessian * np.outer(scale, scale)
    fitted = output_error(weight, gptq(weight, hessian, 8), hessian)
    assert fitted < 0.2 * output_error(weight, round_to_nearest(weight, 8), hessian)


def test_a_calibration_that_overflows_is_refused() -> None:
    weight, hessian = weight_and_hessian(num_rows=10)
    hessian[0, 0] = np.inf
    with pytest.raises(QuantizeError, match="overflow"):
        gptq(weight, hessian, 4)


def weight_and_hessian(*, num_rows: int, width: int = 128) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((width, width)) / np.sqrt(width) + 0.3
    rows = (rng.standard_normal((num_rows, width)) @ mixing).astype(np.float32)
    return rng.standard_normal((32, width)).astype(np.float32), rows.T @ rows
