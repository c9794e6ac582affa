"""The nodes that several blocks of a causal model have: products, norms, activations; and the values of one step.

The nodes are those that the fusion makes of optimum's export of the same model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantize.builder.weights import Weights, whole
from quantize.graph.data_file import DataFile
from quantize.graph.edit import MICROSOFT, Editor
from quantize.sources.decoder_config import DecoderConfig

_NORM = "SimplifiedLayerNormalization"


@dataclass(frozen=True, slots=True)
class StepValues:
    """The graph's inputs of one step; `past` holds what each layer keeps, by the names below."""

    input_ids: ir.Value
    seqlens_k: ir.Value
    total_sequence_length: ir.Value
    logit_rows: ir.Value
    past: tuple[tuple[ir.Value, ...], ...]


@dataclass(frozen=True, slots=True)
class Mixed:
    """A mixer's output, and what its layer then keeps, in the order of its inputs."""

    output: ir.Value
    present: tuple[ir.Value, ...]


class Parts:
    """The nodes of one graph; values are hidden rows (B, S, hidden) if nothing else is said."""

    def __init__(self, edit: Editor, data: DataFile, weights: Weights, config: DecoderConfig) -> None:
        self.edit = edit
        self.data = data
        self.weights = weights
        self.config = config
        self.design = config.design

    def norm(self, x: ir.Value, name: str, where: str | None = None) -> ir.Value:
        """Apply an RMS norm; a norm that several places share needs the path of each (`where`)."""
        inputs, path = [x, self._norm_weight(name)], f"{where or path_of(name)}/RMSNorm"
        return self.edit.node(_NORM, inputs, path, axis=-1, epsilon=self._epsilon, stash_type=1)

    def plain_norm(self, x: ir.Value, width: int, path: str) -> ir.Value:
        """Apply an RMS norm without weights over the last axis."""
        ones = self.edit.constant(f"ones_{width}", np.ones(width, np.float32))
        return self.edit.node(_NORM, [x, ones], f"{path}/RMSNorm", axis=-1, epsilon=self._epsilon, stash_type=1)

    def summed_norm(self, x: ir.Value, y: ir.Value, name: str) -> tuple[ir.Value, ir.Value]:
        """Return the norm of x + y, and that sum."""
        path = f"{path_of(name)}/SkipRMSNorm"
        outputs = self.edit.nodes(
            f"Skip{_NORM}",
            [x, y, self._norm_weight(name)],
            [f"{path}/out", "", "", f"{path}/sum"],
            name=path,
            attributes={"epsilon": self._epsilon},
            domain=MICROSOFT,
        )
        return outputs[0], outputs[3]

    def product(
        self, x: ir.Value, names: Sequence[str], joined: str | None = None, *, has_bias: bool = True
    ) -> ir.Value:
        """Multiply by one projection, or by several of the same rows as one product."""
        name = joined or names[0]
        weight = self.data.product_weight(f"{name}.weight", [self.weights[f"{part}.weight"] for part in names])
        product = self.edit.node("MatMul", [x, weight], f"{path_of(name)}/MatMul")
        return self.biased(product, *names) if has_bias else product

    def biased(self, product: ir.Value, *names: str) -> ir.Value:
        """Add the biases of the projections, if they have any."""
        biases = [self.weights[f"{name}.bias"] for name in names if f"{name}.bias" in self.weights]
        if not biases:
            return product
        array = np.concatenate([whole(bias) for bias in biases])
        bias = self.edit.constant(f"{names[0]}.bias", array)
        return self.edit.node("Add", [product, bias], f"{product.name.removesuffix('/MatMul')}/Add")

    def split(self, value: ir.Value, sizes: Sequence[int], names: Sequence[str], constant: str) -> list[ir.Value]:
        """Take the last axis apart."""
        counts = self.edit.constant(constant, np.array(sizes, np.int64))
        return self.edit.nodes("Split", [value, counts], names, attributes={"axis": -1})

    def silu(self, x: ir.Value, path: str) -> ir.Value:
        """Compute x * sigmoid(x)."""
        return self.edit.node("Mul", [x, self.edit.node("Sigmoid", [x], f"{path}/Sigmoid")], f"{path}/Mul")

    def squared_relu(self, x: ir.Value, path: str) -> ir.Value:
        """Compute max(x, 0) ** 2."""
        positive = self.edit.node("Relu", [x], f"{path}/Relu")
        return self.edit.node("Mul", [positive, positive], f"{path}/Mul")

    def scaled(self, x: ir.Value, scale: float, path: str) -> ir.Value:
        """Multiply by a number, unless it is 1."""
        if scale == 1.0:
            return x
        factor = np.float32(scale)
        return self.edit.node("Mul", [x, self.edit.constant(f"factor_{factor:g}", factor)], f"{path}/Mul")

    def _norm_weight(self, name: str) -> ir.Value:
        """Return the factors of a norm; those of the last one hold the scale of the logits too."""
        array = whole(self.weights[f"{name}.weight"])
        if self.design.norm_offset:
            array = np.float32(self.design.norm_offset) + array
        if name == self.design.names.last_norm and self.design.logits_divisor != 1.0:
            array = array * np.float32(1 / float(np.float32(self.design.logits_divisor)))
        return self.edit.constant(f"{name}.weight", np.asarray(array, np.float32))

    @property
    def _epsilon(self) -> float:
        return float(np.float32(self.design.norm_epsilon))


def path_of(name: str) -> str:
    """Return the path of a module in the graph: /model/layers.0/mlp for model.layers.0.mlp."""
    return "/" + name.replace(".", "/").replace("layers/", "layers.")
