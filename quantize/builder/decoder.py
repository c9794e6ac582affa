"""A causal model's float graph, straight from its configuration and its tensors: no torch, one slab in memory.

What a layer keeps (`sources/kept.py`) is float32; `present_conv.I` and `present_recurrent.I` have the shapes of what
they take the place of. A state begins as zeros.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from appliance.bundle.manifest import MODEL_NAME
from quantize.builder.blocks import Blocks
from quantize.builder.parts import Parts, StepValues
from quantize.builder.weights import Weights
from quantize.graph.data_file import DataFile
from quantize.graph.edit import MICROSOFT, Editor, new_input
from quantize.graph.rope_tables import RopeTables
from quantize.sources.decoder_config import DecoderConfig
from quantize.sources.kept import Dims, kept_by

_OPSET, _IR_VERSION = 18, 8  # those of optimum's export
_FLOAT, _INT32, _INT64 = ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64


def build_decoder(weights: Weights, config: DecoderConfig, target: Path, *, context_length: int) -> None:
    """Write the graph that the engine runs, and its data file, into the target folder."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": _OPSET, MICROSOFT: 1}, name="main_graph")
    step = _inputs(graph, config)
    edit = Editor(graph)
    with DataFile(target, edit) as data:
        tables = RopeTables(edit, context_length)
        for layer in config.design.attention_layers:
            tables.of(config.design.rotations[layer])
        present, logits = _layers(Blocks(Parts(edit, data, weights, config), tables), config, step)
    _outputs(graph, config, logits, present)
    ir.save(ir.Model(graph, ir_version=_IR_VERSION, producer_name="lantern"), target / MODEL_NAME)


def _layers(blocks: Blocks, config: DecoderConfig, step: StepValues) -> tuple[list[tuple[ir.Value, ...]], ir.Value]:
    """Build all layers, and return what each then keeps, and the logits."""
    present: list[tuple[ir.Value, ...]] = []
    x = blocks.embedding(step.input_ids)
    blocks.prepare(step.input_ids, x)
    normed = blocks.first_norm(x)
    for layer in range(config.num_layers):
        normed, x, kept = blocks.layer(normed, x, layer, step)
        present.append(kept)
    return present, blocks.head(normed, step.logit_rows)


def _inputs(graph: ir.Graph, config: DecoderConfig) -> StepValues:
    step = StepValues(
        new_input("input_ids", _INT64, ["batch_size", "sequence_length"]),
        new_input("seqlens_k", _INT32, ["batch_size"]),
        new_input("total_sequence_length", _INT32, []),
        new_input("logit_rows", _INT64, ["rows"]),
        tuple(
            tuple(new_input(name, _FLOAT, dims) for name, dims in kept_by(config, layer))
            for layer in range(config.num_layers)
        ),
    )
    graph.inputs.extend([step.input_ids, step.seqlens_k, step.total_sequence_length, step.logit_rows])
    graph.inputs.extend([value for values in step.past for value in values])
    return step


def _outputs(graph: ir.Graph, config: DecoderConfig, logits: ir.Value, present: list[tuple[ir.Value, ...]]) -> None:
    found: list[tuple[ir.Value, Dims]] = [(logits, ["rows", config.vocab_size])]
    for layer, values in enumerate(present):
        found += [(value, dims) for value, (_, dims) in zip(values, kept_by(config, layer), strict=True)]
    for value, dims in found:
        value.type, value.shape = ir.TensorType(_FLOAT), ir.Shape(dims)
        graph.outputs.append(value)
