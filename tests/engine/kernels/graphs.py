"""Weights and graphs of a single product, for tests and figures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from appliance.engine.kernels import StoredWeights

Constants = dict[str, NDArray[np.uint8] | NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Format:
    """Weights of so many bits; 5 and 6 are stored as the upper ones of 8."""

    bits: int
    block: int
    has_zeros: bool = False

    def __str__(self) -> str:
        return f"int{self.bits} block {self.block}{' zero points' * self.has_zeros}"


def weights_of(form: Format, columns: int, rows: int) -> StoredWeights:
    """Return random weights (rows, columns)."""
    random = np.random.default_rng(5)
    num_blocks, stored_bits = -(-columns // form.block), 4 if form.bits == 4 else 8
    codes = random.integers(0, 256, (rows, num_blocks, form.block * stored_bits // 8), np.uint8)
    codes &= np.uint8(256 - (1 << (stored_bits - form.bits)))
    scales = random.uniform(-0.02, 0.02, (rows, num_blocks)).astype(np.float32)
    zeros = random.integers(0, 256, (rows, (num_blocks * form.bits + 7) // 8), np.uint8) if form.has_zeros else None
    return StoredWeights(codes, scales, zeros, columns, stored_bits)


def with_steps(weights: StoredWeights, form: Format) -> StoredWeights:
    """Return the weights with scales that are whole steps of a unit for each row, as lantern-quantize writes them."""
    random = np.random.default_rng(6)
    low, high = (1, 255) if form.bits == 8 else (-127, 127)
    steps = random.integers(low, high, weights.scales.shape, endpoint=True)
    units = random.uniform(1e-5, 1e-3, (len(steps), 1)).astype(np.float16)
    return replace(weights, scales=steps.astype(np.float32) * units.astype(np.float32))


def block_of(weights: StoredWeights) -> int:
    """Return the columns of a block."""
    _, _, block_bytes = weights.codes.shape
    return int(block_bytes * 8 // weights.bits)


def unpacked(weights: StoredWeights) -> NDArray[np.float64]:
    """Return the weights (N, K) as they are meant."""

    def numbers(values: NDArray[np.uint8]) -> NDArray[np.int64]:
        flat = values.reshape(values.shape[0], -1).astype(np.int64)
        return flat if weights.bits == 8 else np.stack([flat & 15, flat >> 4], axis=2).reshape(len(flat), -1)

    rows, num_blocks, _ = weights.codes.shape
    codes = numbers(weights.codes).reshape(rows, num_blocks, -1)
    middle = np.full((rows, num_blocks), 1 << (weights.bits - 1), np.int64)
    zeros = middle if weights.zeros is None else numbers(weights.zeros)[:, :num_blocks]
    scaled = (codes - zeros[:, :, None]).astype(np.float64) * weights.scales[:, :, None]
    return scaled.reshape(rows, -1)[:, : weights.num_columns]


def stored_constants(weights: StoredWeights) -> Constants:
    """Return the constant inputs of MatMulNBits, in their order."""
    constants: Constants = {"codes": weights.codes, "scales": weights.scales}
    return constants if weights.zeros is None else constants | {"zeros": weights.zeros}


def product_model(
    domain: str, operator: str, constants: Constants, *, columns: int, rows: int, **attributes: int
) -> bytes:
    """Return a graph with one product: `x` times the constants is `y`."""
    node = helper.make_node(operator, ["x", *constants], ["y"], domain=domain, K=columns, N=rows, **attributes)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([node], "product", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(domain, 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
