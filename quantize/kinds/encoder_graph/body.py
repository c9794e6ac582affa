"""A decoder's body that reads whole texts, as one float graph: the layers without cache and head.

input_ids, attention_mask (B, S) int64 -> what `finish` makes of the hidden states of packed tokens. The weights go to
the data file slab by slab, so that memory never holds the model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common as passes

from appliance.bundle.manifest import MODEL_NAME
from appliance.errors import QuantizeError
from quantize.builder.mlp import mlp
from quantize.builder.parts import Parts, path_of
from quantize.builder.per_layer import ProjectedInputs
from quantize.builder.weights import Weights
from quantize.graph.data_file import DataFile
from quantize.graph.edit import MICROSOFT, Editor, new_input
from quantize.graph.rope_tables import RopeTables
from quantize.kinds.encoder_graph.body_attention import BodyAttention
from quantize.kinds.encoder_graph.packing import Packing
from quantize.recipe import Recipe
from quantize.sources.census import EMBEDDING
from quantize.sources.decoder_config import DecoderConfig

_OPSET, _IR_VERSION = 18, 10
_FLOAT, _INT64 = ir.DataType.FLOAT, ir.DataType.INT64
_DIMS = ("batch_size", "sequence_length")

Finish = Callable[[Editor, Packing, ir.Value], tuple[ir.Value, list[int | str]]]


def check_body(config: DecoderConfig, recipe: Recipe) -> None:
    """Refuse a body with layers that keep a state, and fields of a recipe that are for other models.

    Raises:
        QuantizeError: naming the kind of layer or the field.
    """
    if recipe.weights.smoothing is not None:
        raise QuantizeError(
            f"smoothing is not known for the body of a {config.architecture}; leave it out of the recipe"
        )
    _check_layers(config)


def _check_layers(config: DecoderConfig) -> None:
    design = config.design
    kind: str | None = next((mixer or "an MLP alone" for mixer in design.mixers if mixer != "attention"), None)
    if None in design.mlps:
        kind = kind or "attention without an MLP"
    elif design.output_gate is not None:
        kind = "gated attention"
    elif design.has_per_layer_table or not all(map(design.keeps_kv, design.attention_layers)):
        kind = "per-layer embeddings of a second table or lent keys"
    elif design.experts is not None:
        kind = "experts"
    if kind is not None:
        raise QuantizeError(f"{config.architecture} has layers of {kind}; embeddings are known of attention alone")


def build_body(weights: Weights, config: DecoderConfig, target: Path, finish: Finish, *, num_positions: int) -> None:
    """Write the float graph and its data file into the target folder.

    Raises:
        QuantizeError: the layers are not of attention alone.
    """
    _check_layers(config)
    graph = ir.Graph([], [], nodes=[], opset_imports={"": _OPSET, MICROSOFT: 1}, name="text")
    edit = Editor(graph)
    ids, mask = (new_input(name, _INT64, _DIMS) for name in ("input_ids", "attention_mask"))
    graph.inputs.extend([ids, mask])
    packing = Packing.of(edit, ids, mask)
    with DataFile(target, edit) as data:
        parts = Parts(edit, data, weights, config)
        hidden = _hidden(parts, packing, RopeTables(edit, num_positions), packing.pack(ids, "ids"))
    output, dims = finish(edit, packing, hidden)
    output.type, output.shape = ir.TensorType(_FLOAT), ir.Shape(dims)
    graph.outputs.append(output)
    model = ir.Model(graph, ir_version=_IR_VERSION, producer_name="lantern")
    passes.RemoveUnusedNodesPass()(model)
    ir.save(model, target / MODEL_NAME)


def _hidden(parts: Parts, packing: Packing, tables: RopeTables, ids: ir.Value) -> ir.Value:
    """Compute the rows (T, hidden) behind the last norm."""
    design, names = parts.design, parts.design.names
    attention = BodyAttention(parts, packing, tables)
    table = parts.data.table(EMBEDDING, parts.weights[EMBEDDING])
    rows = parts.edit.node("Gather", [table, ids], "word_rows")
    x = parts.scaled(rows, design.embedding_scale, "/model/embed_tokens")
    per_layer = ProjectedInputs(parts, x) if design.per_layer_width else None
    normed = parts.norm(x, f"model.layers.0.{names.first_norm}")
    for layer in range(parts.config.num_layers):
        name = f"model.layers.{layer}"
        is_last = layer + 1 == parts.config.num_layers
        following = names.last_norm if is_last else f"model.layers.{layer + 1}.{names.first_norm}"
        y = attention.apply(normed, layer)
        y = y if names.mixer_norm is None else parts.norm(y, f"{name}.{names.mixer_norm}")
        y = parts.scaled(y, design.residual_scale, f"/layers.{layer}/mixer")
        normed, x = parts.summed_norm(x, y, f"{name}.{names.second_norm}")
        y = mlp(parts, normed, layer)
        y = y if names.mlp_norm is None else parts.norm(y, f"{name}.{names.mlp_norm}")
        y = parts.scaled(y, design.residual_scale, f"/layers.{layer}/mlp")
        if per_layer is None:
            normed, x = parts.summed_norm(x, y, following)
            continue
        x = per_layer.add(parts.edit.node("Add", [x, y], f"{path_of(name)}/mlp/sum"), layer)
        normed = parts.norm(x, following)
    return normed
