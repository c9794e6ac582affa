"""A smoothed graph as a file, which no stage needs: factors are applied where matrices are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from quantize.graph.factors import Factors
from quantize.precision.matrices import matrices_of


def write_smoothed(fused: Path, smoothed: Path, target: Path) -> Path:
    """Write the graph in `fused` with the factors in `smoothed` applied; return `target`."""
    factors = Factors.load(smoothed)
    model = factors.load_graph(fused)
    for matrix in matrices_of(model.graph):
        value = matrix.node.inputs[1]
        assert value is not None
        weight = factors.apply(matrix.name, matrix.weight()).T
        value.const_value = ir.tensor(np.ascontiguousarray(weight), name=value.name)
    ir.save(model, target / "model.onnx", external_data="model.onnx.data")
    return target
