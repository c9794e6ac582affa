"""A decoder's graph with the arithmetic of another processor, so that its loss is measured on this workstation.

The stored products multiply with float activations here (accuracy level 0), and the graph rounds the activations as the
kernels of that processor do: only rounding makes the difference, since sums of integers are exact. Single products
equal those of onnxruntime 1.32 on x86, and under emulation on Cortex-A72 and A76, to the rounding of float sums.

Experts have float activations too where a processor has and their operator can, with 4 bits. Otherwise they keep the
arithmetic of this workstation: what their second product multiplies is no value of the graph.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import MODEL_DATA_NAME, MODEL_NAME
from appliance.bundle.targets import ARITHMETICS, Arithmetic, metric_name, stock_arithmetic
from appliance.host.processor import processor_kind
from quantize.evaluation.decoder import DecoderEvaluation, Reference, evaluate_decoder
from quantize.evaluation.metrics import Metrics
from quantize.graph.edit import Editor, constant_of, refuse
from quantize.pipeline import PARTIAL
from quantize.progress import Progress

_MEASURED_NAME = "measured.json"
_PRODUCT, _EXPERTS = "MatMulNBits", "QMoE"
_FLOAT_ACTIVATIONS = 0  # the accuracy level
_SCALES, _ZERO_POINTS = 2, 3  # inputs of the product
_OF_SCALES = frozenset({"Cast", "Mul", "Reshape", "Transpose"})  # what computes them of constants
_BFLOAT16 = 0xFFFF0000  # the upper half of a float's bits
_SMALLEST_SPAN = 1e-30  # keeps a division finite; zeros have codes of zero at any scale


def arithmetic_metrics(
    reference: Reference,
    folder: Path,
    spec: DecoderSpec,
    known: Mapping[Arithmetic, Metrics],
    scratch: Path,
    progress: Progress,
) -> Metrics:
    """Measure the loss by each arithmetic that is not `known` yet, as that of this workstation is, or of a search."""
    found: Metrics = {}
    for name, part in zip(ARITHMETICS, progress.parts(len(ARITHMETICS)), strict=True):
        metrics = known.get(name)
        if metrics is None:
            metrics = evaluate_with(reference, folder, spec, name, scratch, part).metrics
        found |= {metric_name(key, name): metrics[key] for key in ("kl_mean", "top1_agreement")}
        part.advance_to(1.0)
    return found


def save_measured(folder: Path, arithmetic: Arithmetic, metrics: Metrics) -> None:
    """Write what was measured by one arithmetic, for an evaluation of the same weights."""
    (folder / _MEASURED_NAME).write_text(json.dumps({arithmetic: dict(metrics)}))


def load_measured(folder: Path) -> dict[Arithmetic, Metrics]:
    """Read what an earlier stage measured."""
    found: dict[Arithmetic, Metrics] = json.loads((folder / _MEASURED_NAME).read_text())
    return found


def evaluate_with(
    reference: Reference, folder: Path, spec: DecoderSpec, arithmetic: Arithmetic, scratch: Path, progress: Progress
) -> DecoderEvaluation:
    """Measure a decoder as another processor computes it; as this one does, if its arithmetic is the same."""
    if arithmetic == stock_arithmetic(processor_kind()):
        return evaluate_decoder(reference, folder, spec, progress)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=PARTIAL) as temporary:
        write_with_arithmetic(folder, Path(temporary), arithmetic)
        return evaluate_decoder(reference, Path(temporary), spec, progress)


def write_with_arithmetic(folder: Path, target: Path, arithmetic: Arithmetic) -> None:
    """Write the graph of FOLDER as this arithmetic computes it to `target`, for the same data file."""
    model = ir.load(folder / MODEL_NAME)
    round_activations(model, arithmetic)
    (target / MODEL_NAME).write_bytes(ir.to_proto(model).SerializeToString())
    try:
        os.link(folder / MODEL_DATA_NAME, target / MODEL_DATA_NAME)
    except OSError:  # another file system
        shutil.copyfile(folder / MODEL_DATA_NAME, target / MODEL_DATA_NAME)


def round_activations(model: ir.Model, arithmetic: Arithmetic) -> None:
    """Change the stored products of a graph in place."""
    edit = Editor(model.graph)
    if arithmetic == "floats":
        for node in [node for node in model.graph if node.op_type == _EXPERTS]:
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", _FLOAT_ACTIVATIONS)
    rounded: dict[str, ir.Value] = {}
    for node in [node for node in model.graph if node.op_type == _PRODUCT]:
        node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", _FLOAT_ACTIVATIONS)
        if arithmetic == "floats":
            continue
        has_zeros = len(node.inputs) > _ZERO_POINTS and node.inputs[_ZERO_POINTS] is not None
        by_row = arithmetic == "rows" and _attribute(node, "bits") == 4 and not has_zeros
        block = None if by_row else _attribute(node, "block_size")
        if by_row:
            node.replace_input_with(_SCALES, _short_scales(edit, node.inputs[_SCALES]))
        x = node.inputs[0]
        name = f"{x.name}/rounded_{block or 'rows'}"
        if name not in rounded:
            write = _Writer(edit, name, node)
            rounded[name] = _by_row(write, x) if block is None else _by_block(write, x, _attribute(node, "K"), block)
        node.replace_input_with(0, rounded[name])


def _short_scales(edit: Editor, scales: ir.Value) -> ir.Value:
    """Return the scales of weights as KleidiAI packs them: in bfloat16, cut off and not rounded."""
    bits = _computed(scales).astype(np.float32).view(np.uint32) & np.uint32(_BFLOAT16)
    return edit.constant(f"{scales.name}/bfloat16", bits.view(np.float32))


def _computed(value: ir.Value) -> NDArray[Any]:
    """Return a constant, or what operators for scales make of constants, as onnxruntime folds them at load."""
    found = constant_of(value)
    if found is not None:
        return found
    node = value.producer()
    if node is None or node.op_type not in _OF_SCALES:
        raise refuse(node, "the scales of its weights are not constant")
    given = [_computed(each) for each in node.inputs]
    match node.op_type:
        case "Cast":
            return given[0].astype(np.float32)
        case "Mul":
            return np.asarray(given[0] * given[1])
        case "Reshape":
            return given[0].reshape(given[1])
        case _:
            return given[0].transpose(node.attributes["perm"].as_ints())


@dataclass(frozen=True, slots=True)
class _Writer:
    """A writer of the operators that round one value, in front of the first product that takes it."""

    edit: Editor
    name: str
    before: ir.Node

    def then(self, part: str, op: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        """Append an operator; `part` names its output."""
        output = f"{self.name}.{part}"
        return self.edit.nodes(op, inputs, [output], attributes=attributes, before=self.before)[0]

    def number(self, value: float) -> ir.Value:
        """Return a constant of one float."""
        return self.edit.constant(f"arithmetic/{value!r}", np.float32(value))

    def sizes(self, *values: int) -> ir.Value:
        """Return a constant row of integers."""
        return self.edit.constant(f"arithmetic/{values}", np.array(values, np.int64))


def _by_block(write: _Writer, x: ir.Value, num_inputs: int, block: int) -> ir.Value:
    """Round X (..., K) to int8 with the scale peak / 127 for each block; the last block may be a part of one."""
    then, missing = write.then, -num_inputs % block
    shape = then("shape", "Shape", x)
    if missing:
        x = then("rows", "Reshape", x, write.sizes(-1, num_inputs))
        x = then("padded", "Pad", x, write.sizes(0, 0, 0, missing))
    x = then("blocks", "Reshape", x, write.sizes(-1, block))
    peaks = then("peaks", "ReduceMax", then("magnitudes", "Abs", x), write.sizes(-1), keepdims=1)
    peaks = then("above_zero", "Max", peaks, write.number(_SMALLEST_SPAN))
    codes = then("codes", "Round", then("scaled", "Mul", x, then("inverse", "Div", write.number(127.0), peaks)))
    x = then("values", "Mul", codes, then("scales", "Div", peaks, write.number(127.0)))
    if missing:
        x = then("padded_values", "Reshape", x, write.sizes(-1, num_inputs + missing))
        x = then("cut", "Slice", x, *map(write.sizes, (0, num_inputs, -1)))
    return then("joined", "Reshape", x, shape)


def _by_row(write: _Writer, x: ir.Value) -> ir.Value:
    """Round X (..., K) to int8 with one scale and one whole zero point for each row, whose range includes zero."""
    then = write.then
    least = then("least", "Min", then("minima", "ReduceMin", x, write.sizes(-1), keepdims=1), write.number(0.0))
    most = then("most", "Max", then("maxima", "ReduceMax", x, write.sizes(-1), keepdims=1), write.number(0.0))
    span = then("above_zero", "Max", then("span", "Sub", most, least), write.number(_SMALLEST_SPAN))
    inverse = then("inverse", "Div", write.number(255.0), span)
    offset = then("offset", "Sub", write.number(-128.0), then("least_scaled", "Mul", least, inverse))
    zero = then("zero", "Clip", then("zero_rounded", "Round", offset), write.number(-128.0), write.number(127.0))
    moved = then("moved", "Add", then("rounded", "Round", then("scaled", "Mul", x, inverse)), zero)
    codes = then("codes", "Clip", moved, write.number(-128.0), write.number(127.0))
    step = then("step", "Div", span, write.number(255.0))
    return then("values", "Mul", then("levels", "Sub", codes, zero), step)


def _attribute(node: ir.Node, name: str) -> int:
    return int(node.attributes[name].as_int())
