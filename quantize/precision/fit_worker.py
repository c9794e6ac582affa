"""The matrices behind one value of the float graph, fitted to the rows that it had over the calibration text.

A build runs it in worker processes, and small models in its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import MODEL_NAME
from quantize.graph.codec import Bits, Float32
from quantize.graph.factors import Factors
from quantize.precision.experts import fit_experts
from quantize.precision.fitted import Errors, save_fitted
from quantize.precision.gptq import Moments, gptq, one_thread
from quantize.precision.matrices import Matrix, plain_products
from quantize.precision.mixed import widths_by_pattern
from quantize.precision.mixtures import Mixture, mixtures_of
from quantize.precision.moments import second_moments
from quantize.precision.parts import Patterns, parts_of
from quantize.precision.workers import Message, serve


def start(setup: Message) -> Callable[[Message], Message]:
    """Open the float graph, and return the function that fits the matrices behind one value."""
    graph = ir.load(Path(setup["fused"]) / MODEL_NAME).graph
    matrices, mixtures = plain_products(graph), {mixture.rows: mixture for mixture in mixtures_of(graph)}
    spec, widths = DecoderSpec.model_validate(setup["spec"]), tuple(setup["widths"])
    target, patterns = Path(setup["target"]), _patterns(setup)
    factors = Factors() if setup["smoothed"] is None else Factors.load(Path(setup["smoothed"]))

    def run(task: Message) -> Message:
        rows = np.memmap(task["rows"], np.float32, "c").reshape(-1, task["width"])
        errors: Errors = {}
        with one_thread():
            moments = Moments.of(second_moments(rows))
            if task["scores"] is not None:
                mixture = mixtures[task["value"]]
                scores = np.memmap(task["scores"], np.float32, "r").reshape(-1, mixture.count)
                needed = widths if patterns is None else _decided(mixture.up, patterns, spec)
                errors |= _fit_mixture(mixture, rows, scores, target, needed)
            del rows  # whose pages count as memory of this process
            for matrix in [m for m in matrices if m.input_name == task["value"]]:
                needed = widths if patterns is None else _decided(matrix, patterns, spec)
                weight = factors.apply(matrix.name, matrix.weight())
                errors |= _fit_matrix(matrix, weight, moments, target, needed, spec)
        return {"value": task["value"], "errors": errors}

    return run


def _patterns(setup: Message) -> Patterns | None:
    found: dict[Bits, list[str]] | None = None if setup["patterns"] is None else dict(setup["patterns"])
    return found


def _decided(matrix: Matrix, patterns: Patterns, spec: DecoderSpec) -> list[Bits]:
    """Return the widths that the parts of a matrix will have."""
    return sorted(set(widths_by_pattern(parts_of(matrix, spec), patterns).values()))


def _fit_matrix(
    matrix: Matrix, weight: Float32, moments: Moments, target: Path, widths: Sequence[Bits], spec: DecoderSpec
) -> Errors:
    by_row = {}
    for bits in widths:
        fit = gptq(weight, moments, bits)
        by_row[f"int{bits}"] = fit.errors
        save_fitted(target, matrix.name, fit.stored)
    return {
        part.name: {scheme: float(rows[part.rows].sum()) for scheme, rows in by_row.items()}
        for part in parts_of(matrix, spec)
    }


def _fit_mixture(mixture: Mixture, rows: Float32, scores: Float32, target: Path, widths: Sequence[Bits]) -> Errors:
    found: Errors = {}
    fitted = fit_experts(mixture, rows, scores, widths)
    for matrix, both in zip((mixture.up, mixture.down), fitted, strict=True):
        for stored in both.stored():
            save_fitted(target, matrix.name, stored)
        found[matrix.name] = {f"int{bits}": error for bits, error in both.errors.items()}
    return found


if __name__ == "__main__":
    serve(start)
