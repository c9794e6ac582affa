"""A matrix product of packed tokens: in float, or with one int8 scale a token, so that no token sees its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from quantize.graph.edit import MICROSOFT, Editor
from quantize.kinds.encoder_graph.measured import Float32, Seen
from quantize.precision.gptq import gptq_rows

_SMOOTHED = frozenset({"qkv", "ffn_in"})  # smoothing the other two products gains nothing
_SMALLEST_PEAK = np.float32(1e-5)
_SMALLEST_SCALE = np.float32(1e-9)


@dataclass(frozen=True, slots=True)
class Products:
    """The products of one graph: in float if `seen` is None, else in int8; `inputs` collects their inputs."""

    edit: Editor
    seen: Mapping[str, Seen] | None
    smoothing: float
    inputs: dict[str, ir.Value] = field(default_factory=dict)
    zero_points: list[ir.Value] = field(default_factory=list)

    def product(self, x: ir.Value, weight: Float32, name: str) -> ir.Value:
        """Multiply X (T, K) by weight (N, K) transposed."""
        self.inputs[name] = x
        if self.seen is None:
            return self.edit.node("MatMul", [x, self.edit.constant(f"{name}.weight", weight.T)], f"{name}.out")
        factors = self._smoothing_factors(weight, name)
        moments = self.seen[name].moments
        if factors is not None:
            weight, moments = weight * factors, moments / factors[:, None] / factors
            x = self.edit.node("Mul", [x, self.edit.constant(f"{name}.smooth", 1 / factors)], f"{name}.smoothed")
        return self._int8_product(x, weight, moments, name)

    def _smoothing_factors(self, weight: Float32, name: str) -> Float32 | None:
        """Compute SmoothQuant's factors (arXiv:2211.10438): outliers of input channels move into the weights."""
        if self.seen is None or self.smoothing == 0 or name.rsplit(".", 1)[-1] not in _SMOOTHED:
            return None
        peaks = np.maximum(self.seen[name].peaks, _SMALLEST_PEAK) ** self.smoothing
        factors = peaks / np.maximum(np.abs(weight).max(axis=0), _SMALLEST_PEAK) ** (1 - self.smoothing)
        return np.asarray(factors / np.exp(np.log(factors).mean()), np.float32)

    def _int8_product(self, x: ir.Value, weight: Float32, moments: Float32, name: str) -> ir.Value:
        edit = self.edit
        codes, scale_column = self._quantized_rows(x, name)
        scales = np.maximum(np.abs(weight).max(axis=1) / 127, _SMALLEST_SCALE).astype(np.float32)
        stored = gptq_rows(weight, moments, scales)
        product = edit.node(
            "MatMulIntegerToFloat",
            [
                codes,
                edit.constant(f"{name}.codes", stored.T),
                edit.constant("one", np.float32(1)),
                edit.constant(f"{name}.scales", scales),
                edit.constant("zero_point", np.uint8(128)),
                edit.constant(f"{name}.zero_points", np.zeros(len(scales), np.int8)),
            ],
            f"{name}.int",
            domain=MICROSOFT,
        )
        return edit.node("Mul", [product, scale_column], f"{name}.out")

    def _quantized_rows(self, x: ir.Value, name: str) -> tuple[ir.Value, ir.Value]:
        """Quantize X to uint8 around 128, with each row's scale in a column; a row of zeros has scale 0."""
        edit = self.edit
        last = edit.constant("last_axis", np.array([-1], np.int64))
        peak = edit.node("ReduceMax", [edit.node("Abs", [x], f"{name}.abs"), last], f"{name}.peak", keepdims=0)
        scale = edit.node("Mul", [peak, edit.constant("inverse_127", np.float32(1 / 127))], f"{name}.row_scale")
        if not self.zero_points:  # one for each token, shared by all products
            zero_point, shape = edit.constant("zero_point", np.uint8(128)), edit.node("Shape", [scale], "num_rows")
            self.zero_points.append(edit.node("Expand", [zero_point, shape], "row_zero_points"))
        codes = edit.node("QuantizeLinear", [x, scale, self.zero_points[0]], f"{name}.row_codes", axis=0)
        return codes, edit.node("Unsqueeze", [scale, last], f"{name}.scale_column")
