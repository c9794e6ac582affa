"""Input channels of very different size are evened out before anything is rounded; the function stays the same.

Both sides of a product are rounded in blocks of neighbouring channels, weights beforehand and inputs while it runs, and
the largest channel of a block decides how finely its neighbours are kept. So each input channel is divided by a factor
and its column of weights multiplied by it (arXiv:2211.10438). The division costs nothing where it can move into what
makes the channel: the weight of a norm, the rows of the values before attention's output, the rows of up before down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import MODEL_DATA_NAME, MODEL_NAME
from quantize.graph.codec import Float32
from quantize.graph.edit import constant_of
from quantize.precision.hessians import channel_moments
from quantize.precision.weights import Matrix, matrices_of

_FACTORS_NAME = "factors.npz"
_NORM_WEIGHTS = {"SimplifiedLayerNormalization": 1, "SkipSimplifiedLayerNormalization": 2}
_SMALLEST_SHARE = 1e-3  # of the mean magnitude; what is smaller counts as so large
_MOST = np.float32(256)  # a factor lies between its inverse and itself


@dataclass(slots=True)
class Factors:
    """By a matrix's name: what its columns (K,) are multiplied by, and what its rows (N,) are divided by."""

    columns: dict[str, Float32] = field(default_factory=dict)
    rows: dict[str, Float32] = field(default_factory=dict)

    def undo(self, name: str, weight: Float32) -> Float32:
        """A smoothed matrix (N, K) as the checkpoint's own."""
        if name in self.columns:
            weight = weight / self.columns[name]
        if name in self.rows:
            weight = weight * self.rows[name][:, None]
        return weight

    def save(self, folder: Path) -> None:
        """Keep them beside the graph."""
        arrays: dict[str, Any] = {f"columns:{name}": value for name, value in self.columns.items()}
        arrays |= {f"rows:{name}": value for name, value in self.rows.items()}
        np.savez(folder / _FACTORS_NAME, **arrays)

    @classmethod
    def load(cls, folder: Path) -> Factors:
        """What `save` kept."""
        factors = cls()
        with np.load(folder / _FACTORS_NAME) as arrays:
            for key in arrays.files:
                part, name = key.split(":", 1)
                (factors.columns if part == "columns" else factors.rows)[name] = arrays[key]
        return factors


def smooth_file(
    fused: Path,
    target: Path,
    windows: NDArray[np.int64],
    spec: DecoderSpec,
    strength: float,
    report: Callable[[float], None],
) -> None:
    """Write the smoothed float graph and its factors into the target folder."""
    model = ir.load(fused / MODEL_NAME)
    widths = {matrix.input_name: matrix.num_inputs for matrix in matrices_of(model.graph) if not matrix.is_head}
    moments = channel_moments(fused, widths, windows, spec, report)
    smooth(model, moments, spec, strength).save(target)
    ir.save(model, target / MODEL_NAME, external_data=MODEL_DATA_NAME)


def smooth(model: ir.Model, moments: Mapping[str, Float32], spec: DecoderSpec, strength: float) -> Factors:
    """Smooth in place wherever the division costs nothing.

    `moments` holds the mean square of each channel of each matrix's input; `strength` says how much of the difference
    moves from the inputs (1) to the weights.
    """
    groups: dict[str, list[Matrix]] = {}
    for matrix in matrices_of(model.graph):
        if not matrix.is_head:
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
        gamma = producer.inputs[_NORM_WEIGHTS[producer.op_type]] if producer.op_type in _NORM_WEIGHTS else None
        if gamma is not None:
            if constant_of(gamma) is None or len(list(gamma.uses())) != 1:
                continue
            norms[gamma] = wanted
        else:
            source = _linear_source(producer, by_output, spec, wanted)
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
    _apply(by_output.values(), factors, norms, biases)
    return factors


@dataclass(frozen=True, slots=True)
class _Source:
    """Rows of a matrix whose outputs reach another matrix's input with nothing but weighted sums in between."""

    matrix: Matrix
    rows: slice
    row_factors: Float32
    factors: Float32
    bias: ir.Value | None


def _wanted(moments: Float32, group: list[Matrix], strength: float) -> Float32:
    """The factor of each channel, around 1."""
    size = np.sqrt(moments)
    size = np.maximum(size, _SMALLEST_SHARE * max(float(size.mean()), 1e-12))
    largest = np.max([np.abs(matrix.weight()).max(axis=0) for matrix in group], axis=0)
    largest = np.maximum(largest, _SMALLEST_SHARE * max(float(largest.mean()), 1e-12))
    return _around_one(strength * np.log(size) - (1 - strength) * np.log(largest))


def _around_one(logarithms: NDArray[np.floating]) -> Float32:
    factors = np.exp(logarithms - logarithms.mean())
    return np.asarray(np.clip(factors, 1 / _MOST, _MOST), np.float32)


def _linear_source(
    producer: ir.Node, by_output: Mapping[ir.Value, Matrix], spec: DecoderSpec, wanted: Float32
) -> _Source | None:
    if producer.op_type == "GroupQueryAttention":
        return _values(producer, by_output, spec, wanted)
    if producer.op_type == "Mul":
        return _up(producer, by_output, wanted)
    return None


def _values(
    attention: ir.Node, by_output: Mapping[ir.Value, Matrix], spec: DecoderSpec, wanted: Float32
) -> _Source | None:
    """The values' rows; heads that share one get one factor."""
    is_packed = attention.inputs[1] is None
    value = attention.inputs[0 if is_packed else 2]
    split = value.producer()
    if split is not None and split.op_type == "Split":  # values are the last of queries, keys and values
        value = split.inputs[0]
    matrix, bias = _product_of(value, by_output)
    if matrix is None:
        return None
    by_head = np.log(wanted).reshape(spec.num_kv_heads, -1, spec.head_dim)
    shared = _around_one(by_head.mean(axis=1))
    factors = np.repeat(shared[:, None], by_head.shape[1], axis=1).reshape(-1)
    start = matrix.num_outputs - shared.size
    return _Source(matrix, slice(start, None), shared.reshape(-1), factors, bias)


def _up(product: ir.Node, by_output: Mapping[ir.Value, Matrix], wanted: Float32) -> _Source | None:
    """The rows of up: the factor of the product that comes from a matrix with nothing in between."""
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


def _without_bias(value: ir.Value) -> tuple[ir.Value, ir.Value | None]:
    """What a bias is added to, and the bias, where nothing else reads either."""
    add = value.producer()
    if add is None or add.op_type != "Add":
        return value, None
    summed = [v for v in add.inputs if constant_of(v) is None and len(list(v.uses())) == 1]
    biases = [v for v in add.inputs if constant_of(v) is not None and len(list(v.uses())) == 1]
    return (summed[0], biases[0]) if len(summed) == len(biases) == 1 else (value, None)


def _product_of(value: ir.Value, by_output: Mapping[ir.Value, Matrix]) -> tuple[Matrix | None, ir.Value | None]:
    """The matrix that gives a value which nothing else reads, and the bias that is added on the way."""
    if len(list(value.uses())) != 1:
        return None, None
    value, bias = _without_bias(value)
    return by_output.get(value), bias


def _apply(
    matrices: Iterable[Matrix], factors: Factors, norms: Mapping[ir.Value, Float32], biases: Mapping[ir.Value, Float32]
) -> None:
    for matrix in matrices:
        weight = matrix.weight()
        if matrix.name in factors.columns:
            weight *= factors.columns[matrix.name]
        if matrix.name in factors.rows:
            weight /= factors.rows[matrix.name][:, None]
        _set(matrix.node.inputs[1], weight.T)
    for value, by in [*norms.items(), *biases.items()]:
        array = constant_of(value)
        assert array is not None
        _set(value, array / by)


def _set(value: ir.Value, array: NDArray[np.floating]) -> None:
    value.const_value = ir.tensor(np.ascontiguousarray(array, np.float32), name=value.name)
