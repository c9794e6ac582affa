"""The inputs that each layer gets of the tokens beside the residual sum.

Gemma 4 has a second table and a projection of the embedding for them, EmbeddingGemma 2 the projection alone.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantize.builder.mlp import activation_of
from quantize.builder.parts import Parts, path_of
from quantize.builder.weights import RowRange, whole
from quantize.sources.embedding_gemma2 import PER_LAYER_NORM, PER_LAYER_PROJECTION
from quantize.sources.gemma4 import PER_LAYER_TABLE

_HALF = 2.0**-0.5  # keeps the size of the sum of two values


class PerLayerInputs:
    """The values of Gemma 4's graph that each layer adds to the residual sum; `prepare` makes them at its start."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._inputs: list[ir.Value] = []

    def prepare(self, ids: ir.Value, embedded: ir.Value) -> None:
        """Compute all layers' values, each (B, S, width), from tokens (B, S) and their embedding (B, S, hidden)."""
        parts, edit, width = self._parts, self._parts.edit, self._parts.design.per_layer_width
        layers = parts.config.num_layers
        by_layer = edit.constant("shape_per_layer", np.array([0, 0, layers, width], np.int64))
        flat = edit.constant("shape_whole", np.array([0, 0, -1], np.int64))
        table = parts.data.table(PER_LAYER_TABLE, parts.weights[PER_LAYER_TABLE])
        rows = edit.node("Gather", [table, ids], "/model/embed_tokens_per_layer/Gather")
        rows = parts.scaled(rows, width**0.5, "/model/embed_tokens_per_layer")
        name = "model.per_layer_model_projection"
        projected = parts.product(embedded, [name], has_bias=False)
        projected = parts.scaled(projected, parts.config.hidden_size**-0.5, path_of(name))
        projected = edit.node("Reshape", [projected, by_layer], f"{path_of(name)}/by_layer")
        projected = parts.norm(projected, "model.per_layer_projection_norm")
        projected = edit.node("Reshape", [projected, flat], f"{path_of(name)}/flat")
        total = edit.node("Add", [projected, rows], "/model/per_layer/sum")
        total = parts.scaled(total, _HALF, "/model/per_layer")
        names = [f"/model/layers.{layer}/per_layer_input" for layer in range(layers)]
        self._inputs = parts.split(total, [width] * layers, names, "sizes_per_layer")

    def add(self, x: ir.Value, layer: int) -> ir.Value:
        """Add a layer's own part to the residual sum, and scale the sum by the layer's number."""
        return _added(self._parts, x, self._inputs[layer], layer)


class ProjectedInputs:
    """The values of one graph that each layer adds to the residual sum: projections of the embedding (T, hidden).

    Each is computed in its layer: all of them at once are many times as wide as the rows that the layers work on.
    """

    def __init__(self, parts: Parts, embedded: ir.Value) -> None:
        self._parts = parts
        self._embedded = embedded

    def add(self, x: ir.Value, layer: int) -> ir.Value:
        """Add a layer's own part to the residual sum, and scale the sum by the layer's number."""
        parts, width = self._parts, self._parts.design.per_layer_width
        name = f"model.layers.{layer}.per_layer_input"
        rows = RowRange(parts.weights[PER_LAYER_PROJECTION], layer * width, (layer + 1) * width)
        weight = parts.data.product_weight(f"{name}.weight", [rows])
        projected = parts.edit.node("MatMul", [self._embedded, weight], f"{path_of(name)}/MatMul")
        projected = parts.scaled(projected, parts.config.hidden_size**-0.5, path_of(name))
        return _added(parts, x, parts.norm(projected, PER_LAYER_NORM, path_of(name)), layer)


def _added(parts: Parts, x: ir.Value, own: ir.Value, layer: int) -> ir.Value:
    edit, name = parts.edit, f"model.layers.{layer}"
    block, path = f"{name}.{parts.design.names.per_layer}", f"{path_of(name)}/per_layer"
    gate = parts.product(x, [f"{block}per_layer_input_gate"], has_bias=False)
    gate = activation_of(parts)(gate, f"{path}/act_fn")
    gated = edit.node("Mul", [gate, own], f"{path}/gated")
    y = parts.product(gated, [f"{block}per_layer_projection"], has_bias=False)
    y = parts.norm(y, f"{block}post_per_layer_input_norm")
    total = edit.node("Add", [x, y], f"{path}/sum")
    scalar = edit.constant(f"{name}.layer_scalar", np.asarray(whole(parts.weights[f"{name}.layer_scalar"])))
    return edit.node("Mul", [total, scalar], f"{path}/scaled")
