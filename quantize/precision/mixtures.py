"""The mixtures of experts in a float graph, as its nodes tell of them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from quantize.graph.edit import constant_of, refuse, source_of
from quantize.precision.matrices import Matrix, matrices_of

_REPEATING = ("Reshape", "Expand")


@dataclass(frozen=True, slots=True)
class Mixture:
    """The experts of one layer, and the values of the float graph that they depend on.

    Attributes:
        up, down: the matrices of all experts: gate and up in turn, and down.
        rows: the name of the value (B, S, hidden) that experts multiply.
        scores: that of the value (B, S, experts) by which each token gets `chosen` experts.
    """

    up: Matrix
    down: Matrix
    rows: str
    scores: str
    chosen: int

    @property
    def hidden(self) -> int:
        """The channels of the rows."""
        return self.up.num_inputs

    @property
    def width(self) -> int:
        """The channels between an expert's products."""
        return self.down.num_inputs

    @property
    def count(self) -> int:
        """The number of experts."""
        return self.up.num_experts

    def cost(self, num_rows: int, products: int) -> float:
        """Estimate the multiplications of the moments and fits, by the products that a fit takes of each matrix."""
        moments = num_rows * self.chosen * (self.hidden**2 + self.width**2) / 2
        factors = self.count * (self.hidden**3 + self.width**3) / 2
        fits = self.count * self.hidden * self.width * (2 * self.hidden + self.width)
        return moments + factors + products * fits


def mixtures_of(graph: ir.Graph) -> list[Mixture]:
    """Find the mixtures of experts of a float graph, in the order in which they run."""
    matrices = [matrix for matrix in matrices_of(graph) if matrix.is_experts]
    return [_mixture(up, down) for up, down in zip(matrices[::2], matrices[1::2], strict=True)]


def _mixture(up: Matrix, down: Matrix) -> Mixture:
    rows = up.node.inputs[0]
    while (maker := rows.producer()) is not None and maker.op_type in _REPEATING:
        rows = maker.inputs[0]
    one_hot = source_of(source_of(up.node.inputs[1], "Reshape").inputs[0], "OneHot")
    choice = source_of(one_hot.inputs[0], "TopK")
    chosen = constant_of(choice.inputs[1])
    if chosen is None:
        raise refuse(choice, "the number of experts of a token is not a constant")
    return Mixture(up, down, str(rows.name), str(choice.inputs[0].name), int(chosen[0]))
