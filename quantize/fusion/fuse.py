"""The fusion of an exported decoder into the graph that the engine runs; an unknown structure is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from appliance.bundle.manifest import MODEL_DATA_NAME, MODEL_NAME
from appliance.errors import QuantizeError
from quantize.fusion.attention import AttentionFuser, StepInputs
from quantize.fusion.head import unscaled_head
from quantize.fusion.mlp import fuse_gate_up, split_halves
from quantize.fusion.norms import fuse_norms, fuse_skips
from quantize.graph.edit import (
    MICROSOFT,
    Editor,
    computed_input,
    constant_of,
    new_input,
    refuse,
    replace_value,
    scalar_of,
)
from quantize.graph.rope_tables import RopeTables
from quantize.sources.decoder_config import DecoderConfig

_FLOAT = int(ir.DataType.FLOAT)
_FLOAT_OPS = frozenset({"MatMul", "Gather", "SkipSimplifiedLayerNormalization", "GroupQueryAttention", "Add", "Mul"})
# All operators of a fused decoder; any other one was not recognized.
_KNOWN_OPS = frozenset(
    {"Add", "Cast", "Constant", "Cos", "Div", "Erf", "Gather", "Gelu", "GroupQueryAttention", "MatMul", "Mul", "Pow"}
    | {"Range", "Reshape", "Sigmoid", "SimplifiedLayerNormalization", "Sin", "SkipSimplifiedLayerNormalization"}
    | {"Shape", "Slice", "Split", "Tanh"}
)


def fuse_file(exported: Path, target: Path, config: DecoderConfig, *, context_length: int) -> None:
    """Fuse EXPORTED/model.onnx into TARGET/model.onnx and its data file."""
    model = ir.load(exported / MODEL_NAME)
    fuse(model, config, context_length=context_length)
    ir.save(model, target / MODEL_NAME, external_data=MODEL_DATA_NAME)


def fuse(model: ir.Model, config: DecoderConfig, *, context_length: int) -> Counter[str]:
    """Fuse in place, and count the operators that the graph then has.

    Raises:
        QuantizeError: naming the node that was not recognized.
    """
    graph = model.graph
    edit = Editor(graph)
    past = [value for value in graph.inputs if value.name.startswith("past_key_values.")]
    tokens = next((value for value in graph.inputs if value.name == "input_ids"), None)
    if tokens is None or len(past) != 2 * config.num_layers:
        raise QuantizeError(f"the graph has {len(past)} K/V inputs; {2 * config.num_layers} and input_ids are needed")
    step = StepInputs(
        new_input("seqlens_k", ir.DataType.INT32, ["batch_size"]),
        new_input("total_sequence_length", ir.DataType.INT32, []),
    )
    logit_rows = new_input("logit_rows", ir.DataType.INT64, ["rows"])
    _read_shared_weights(graph)
    fuse_norms(edit)
    attention = AttentionFuser(edit, config, step, RopeTables(edit, context_length, next(iter(graph))))
    for layer in range(config.num_layers):
        attention.fuse(layer)
    fuse_skips(edit)
    fuse_gate_up(edit)
    split_halves(edit)
    _gather_rows_before_head(edit, config, logit_rows)
    graph.inputs.clear()
    graph.inputs.extend([tokens, step.seqlens_k, step.total_sequence_length, logit_rows, *past])
    _clean(model)
    return _check(graph)


def _read_shared_weights(graph: ir.Graph) -> None:
    """Let every node read its weight itself: torch stores equal weights once and puts an Identity before the others."""
    for node in list(graph):
        if node.op_type == "Identity" and constant_of(node.inputs[0]) is not None:
            replace_value(node.outputs[0], node.inputs[0])


def _gather_rows_before_head(edit: Editor, config: DecoderConfig, logit_rows: ir.Value) -> None:
    logits = next((value for value in edit.graph.outputs if value.name == "logits"), None)
    if logits is None:
        raise refuse(None, "it has no output logits")
    head = unscaled_head(edit, logits)
    if constant_of(head.inputs[1]) is None:
        raise refuse(head, "the head's weight is not a constant")
    shape = edit.constant("shape_-1_hidden", np.array([-1, config.hidden_size], np.int64))
    hidden = edit.node("Reshape", [head.inputs[0], shape], "/head/flat", before=head)
    hidden = edit.node("Gather", [hidden, logit_rows], "/head/rows", before=head, axis=0)
    head.replace_input_with(0, hidden)
    head.outputs[0].shape = ir.Shape(["rows", config.vocab_size])


def _clean(model: ir.Model) -> None:
    """Drop nodes that only the exported attention used, casts from float to float that norms left, and factors of 1."""
    graph = model.graph
    for node in list(graph):
        if node.op_type == "Mul" and scalar_of(node) == 1.0:
            replace_value(node.outputs[0], computed_input(node))
        elif node.op_type == "Cast" and node.attributes["to"].as_int() == _FLOAT and _is_float(node.inputs[0]):
            replace_value(node.outputs[0], node.inputs[0])
    passes.RemoveUnusedNodesPass()(model)
    graph.sort()
    model.opset_imports[MICROSOFT] = 1
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None


def _is_float(value: ir.Value) -> bool:
    producer = value.producer()
    return value.dtype == ir.DataType.FLOAT or (producer is not None and producer.op_type in _FLOAT_OPS)


def _check(graph: ir.Graph) -> Counter[str]:
    inputs = set(graph.inputs)
    for node in graph:
        if node.op_type not in _KNOWN_OPS:
            raise refuse(node, "this operator is not known in a decoder")
        for value in node.inputs:
            if value is not None and value.producer() is None and value.const_value is None and value not in inputs:
                raise refuse(node, f"it still needs the exported input {value.name}")
    return Counter(node.op_type for node in graph)
