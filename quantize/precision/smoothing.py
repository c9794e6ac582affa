"""Smoothing: input channels of very different size are evened out before rounding; the function stays the same.

Both sides of a product are rounded in blocks of neighbouring channels, weights beforehand and inputs while it runs, and
the largest channel of a block decides how finely its neighbours are kept. So each input channel is divided by a factor
and its column of weights multiplied by it (arXiv:2211.10438). The division costs nothing if it can move into the source
of the channel: the weight of a norm, the rows of the values before attention's output, the rows of up before down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.bundle.manifest import MODEL_NAME
from quantize.graph.codec import Float32
from quantize.graph.edit import constant_of
from quantize.graph.factors import Factors
from quantize.precision.channels import channel_moments
from quantize.precision.matrices import Matrix, plain_products
from quantize.progress import Progress

_NORM_WEIGHTS = {"SimplifiedLayerNormalization": 1, "SkipSimplifiedLayerNormalization": 2}
_SMALLEST_SHARE = 1e-3  # of the mean magnitude; smaller ones count as this
_MOST = np.float32(256)  # a factor lies between its inverse and itself


def smooth_file(
    fused: Path,
    target: Path,
    windows: NDArray[np.int64],
    strength: float,
    progress: Progress,
) -> None:
    """Write the factors that smooth a float graph into the target folder."""
    model = ir.load(fused / MODEL_NAME)
    widths = {matrix.input_name: matrix.num_inputs for matrix in plain_products(model.graph)}
    moments = channel_moments(fused, widths, windows, progress)
    smooth(model, moments, strength).save(target)


def smooth(model: ir.Model, moments: Mapping[str, Float32], strength: float) -> Factors:
    """Return the factors wherever the division costs nothing.

    `moments` holds the mean square of each channel of each matrix's input; `strength` is the share (0 to 1) of the
    difference that moves from the inputs to the weights.
    """
    groups: dict[str, list[Matrix]] = {}
    for matrix in plain_products(model.graph):
        groups.setdefault(matrix.input_name, []).append(matrix)
    by_output = {matrix.node.outputs[0]: matrix for group in groups.values() for matrix in group}
    factors = Factors()
    norms: dict[ir.Value, Float32] = {}
    biases: dict[ir.Value, Float32] = {}
    for name, group in groups.items():
        wanted = _wanted(moments[name], group, strength)
        value = group[0].node.inputs[0]
        producer = value.producer()
        if producer is None or len(list(value.uses())) != len(group):
            continue
        gamma = _gamma(producer)
        if gamma is not None:
            if constant_of(gamma) is None or len(list(gamma.uses())) != 1:
                continue
            norms[gamma] = wanted
        else:
            source = _linear_source(producer, by_output, wanted)
            if source is None:
                continue
            wanted = source.factors
            rows = factors.rows.setdefault(source.matrix.name, np.ones(source.matrix.num_outputs, np.float32))
            rows[source.rows] = source.row_factors
            if source.bias is not None:
                array = constant_of(source.bias)
                assert array is not None
                biases[source.bias] = rows if len(array) == len(rows) else source.row_factors
        factors.columns |= {matrix.name: wanted for matrix in group}
    for value, by in [*norms.items(), *biases.items()]:
        array = constant_of(value)
        assert array is not None
        factors.constants[str(value.name)] = np.ascontiguousarray(array / by, np.float32)
    return factors


def _gamma(producer: ir.Node) -> ir.Value | None:
    """Return the factors of a norm, which a norm in groups has in a product behind it."""
    if producer.op_type in _NORM_WEIGHTS:
        return producer.inputs[_NORM_WEIGHTS[producer.op_type]]
    if producer.op_type != "Mul":
        return None
    return next(
        (value for value in producer.inputs if (array := constant_of(value)) is not None and array.ndim == 1), None
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """Rows of a matrix whose outputs reach another matrix's input with nothing but weighted sums in between."""

    matrix: Matrix
    rows: slice
    row_factors: Float32
    factors: Float32
    bias: ir.Value | None


def _wanted(moments: Float32, group: list[Matrix], strength: float) -> Float32:
    """Compute the factor of each channel, around 1."""
    size = np.sqrt(moments)
    size = np.maximum(size, _SMALLEST_SHARE * max(float(size.mean()), 1e-12))
    largest = np.max([np.abs(matrix.weight()).max(axis=0) for matrix in group], axis=0)
    largest = np.maximum(largest, _SMALLEST_SHARE * max(float(largest.mean()), 1e-12))
    return _around_one(strength * np.log(size) - (1 - strength) * np.log(largest))


def _around_one(logarithms: NDArray[np.floating]) -> Float32:
    factors = np.exp(logarithms - logarithms.mean())
    return np.asarray(np.clip(factors, 1 / _MOST, _MOST), np.float32)


def _linear_source(producer: ir.Node, by_output: Mapping[ir.Value, Matrix], wanted: Float32) -> _Source | None:
    if producer.op_type == "GroupQueryAttention":
        return _values(producer, by_output, wanted)
    if producer.op_type == "Mul":
        is_square = producer.inputs[0] is producer.inputs[1]
        return (_squared if is_square else _up)(producer, by_output, wanted)
    return None


def _values(attention: ir.Node, by_output: Mapping[ir.Value, Matrix], wanted: Float32) -> _Source | None:
    """Find the values' rows; heads that share a value get one factor."""
    is_packed = attention.inputs[1] is None
    value = attention.inputs[0 if is_packed else 2]
    split = value.producer()
    if split is not None and split.op_type == "Split":  # values are the last of queries, keys and values
        value = split.inputs[0]
    matrix, bias = _product_of(value, by_output)
    if matrix is None:
        return None
    heads, kv_heads = (attention.attributes[name].as_int() for name in ("num_heads", "kv_num_heads"))
    by_head = np.log(wanted).reshape(kv_heads, -1, len(wanted) // heads)
    shared = _around_one(by_head.mean(axis=1))
    factors = np.repeat(shared[:, None], by_head.shape[1], axis=1).reshape(-1)
    start = matrix.num_outputs - shared.size
    return _Source(matrix, slice(start, None), shared.reshape(-1), factors, bias)


def _up(product: ir.Node, by_output: Mapping[ir.Value, Matrix], wanted: Float32) -> _Source | None:
    """Find the rows of up: the factor of the product that comes from a matrix with nothing in between."""
    for value in product.inputs:
        if value is None or len(list(value.uses())) != 1:
            continue
        value, bias = _without_bias(value)
        split = value.producer()
        if split is None or split.op_type != "Split":
            matrix = by_output.get(value)
            if matrix is not None:
                return _Source(matrix, slice(None), wanted, wanted, bias)
            continue
        matrix, joint = _product_of(split.inputs[0], by_output)
        if matrix is None or joint is not None or matrix.num_outputs != len(split.outputs) * len(wanted):
            return None
        start = list(split.outputs).index(value) * len(wanted)
        return _Source(matrix, slice(start, start + len(wanted)), wanted, wanted, bias)
    return None


def _squared(square: ir.Node, by_output: Mapping[ir.Value, Matrix], wanted: Float32) -> _Source | None:
    """Find the rows of up before relu(up) ** 2, to which the square roots of the factors belong."""
    relu = square.inputs[0].producer()
    if relu is None or relu.op_type != "Relu" or len(list(relu.outputs[0].uses())) != len(square.inputs):
        return None
    matrix, bias = _product_of(relu.inputs[0], by_output)
    return None if matrix is None else _Source(matrix, slice(None), np.sqrt(wanted), wanted, bias)


def _without_bias(value: ir.Value) -> tuple[ir.Value, ir.Value | None]:
    """Return the value without its bias, and the bias, if nothing else reads either."""
    add = value.producer()
    if add is None or add.op_type != "Add":
        return value, None
    summed = [v for v in add.inputs if constant_of(v) is None and len(list(v.uses())) == 1]
    biases = [v for v in add.inputs if constant_of(v) is not None and len(list(v.uses())) == 1]
    return (summed[0], biases[0]) if len(summed) == len(biases) == 1 else (value, None)


def _product_of(value: ir.Value, by_output: Mapping[ir.Value, Matrix]) -> tuple[Matrix | None, ir.Value | None]:
    """Find the matrix that gives a value which nothing else reads, and the bias that is added on the way."""
    if len(list(value.uses())) != 1:
        return None, None
    value, bias = _without_bias(value)
    return by_output.get(value), bias
