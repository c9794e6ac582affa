"""The ends of a causal model's graph, and the choice of each layer's blocks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from quantize.builder.attention import Attention
from quantize.builder.delta_net import DeltaNet
from quantize.builder.experts import experts
from quantize.builder.mamba import Mamba
from quantize.builder.mlp import mlp
from quantize.builder.parts import Mixed, Parts, StepValues, path_of
from quantize.builder.per_layer import PerLayerInputs
from quantize.builder.short_conv import short_conv
from quantize.graph.rope_tables import RopeTables
from quantize.sources.census import EMBEDDING, HEAD
from quantize.sources.decoder_design import Mixer


class Blocks:
    """The blocks of one graph; values are hidden rows (B, S, hidden) if nothing else is said."""

    def __init__(self, parts: Parts, tables: RopeTables) -> None:
        self._parts = parts
        self._attention = Attention(parts, tables)
        self._delta_net = DeltaNet(parts) if parts.design.delta is not None else None
        self._mamba = Mamba(parts) if parts.design.mamba is not None else None
        self._per_layer = PerLayerInputs(parts) if parts.design.per_layer_width else None

    def embedding(self, ids: ir.Value) -> ir.Value:
        """Look up the rows of token ids (B, S)."""
        parts = self._parts
        table = parts.data.table(EMBEDDING, parts.weights[EMBEDDING])
        rows = parts.edit.node("Gather", [table, ids], "/model/embed_tokens/Gather")
        return parts.scaled(rows, parts.design.embedding_scale, "/model/embed_tokens")

    def prepare(self, ids: ir.Value, embedded: ir.Value) -> None:
        """Compute what layers take of the tokens beside the residual sum, if they take anything."""
        if self._per_layer is not None:
            self._per_layer.prepare(ids, embedded)

    def first_norm(self, x: ir.Value) -> ir.Value:
        """Norm what the first layer reads."""
        return self._parts.norm(x, f"model.layers.0.{self._parts.design.names.first_norm}")

    def layer(
        self, normed: ir.Value, x: ir.Value, layer: int, step: StepValues
    ) -> tuple[ir.Value, ir.Value, tuple[ir.Value, ...]]:
        """Compute a layer from its normed rows and the residual sum; return both for the next one, and what it keeps.

        Each of its parts, a mixer and an MLP or one of them, has a norm before it, which comes with the sum before.
        """
        parts, names, name = self._parts, self._parts.design.names, f"model.layers.{layer}"
        has_mlp, kept = parts.design.mlps[layer] is not None, tuple[ir.Value, ...]()
        mixer = parts.design.mixers[layer]
        if mixer is not None:
            mixed = self._mixed(mixer, normed, layer, step)
            kept = mixed.present
            y = mixed.output if names.mixer_norm is None else parts.norm(mixed.output, f"{name}.{names.mixer_norm}")
            following = f"{name}.{names.second_norm}" if has_mlp else self._following(layer)
            normed, x = parts.summed_norm(x, self._residual(y, f"{path_of(name)}/mixer"), following)
        if has_mlp:
            y = self._mlp(normed, layer)
            y = y if names.mlp_norm is None else parts.norm(y, f"{name}.{names.mlp_norm}")
            normed, x = self._behind_mlp(x, self._residual(y, f"{path_of(name)}/mlp"), layer)
        return normed, x, kept

    def head(self, hidden: ir.Value, logit_rows: ir.Value) -> ir.Value:
        """Compute the logits (rows, vocabulary) of the rows that are asked for."""
        parts, edit = self._parts, self._parts.edit
        shape = edit.constant("shape_-1_hidden", np.array([-1, parts.config.hidden_size], np.int64))
        flat = edit.node("Reshape", [hidden, shape], "/head/flat")
        rows = edit.node("Gather", [flat, logit_rows], "/head/rows", axis=0)
        source = HEAD if HEAD in parts.weights else EMBEDDING
        weight = parts.data.product_weight(f"{HEAD}/product", [parts.weights[source]])
        cap = parts.design.logits_cap
        if cap is None:
            return edit.nodes("MatMul", [rows, weight], ["logits"], name="/lm_head/MatMul")[0]
        product = edit.node("MatMul", [rows, weight], "/lm_head/MatMul")
        bent = edit.node("Tanh", [parts.scaled(product, 1 / cap, "/lm_head/share")], "/lm_head/Tanh")
        return edit.nodes("Mul", [bent, edit.constant("logits_cap", np.float32(cap))], ["logits"], name="/lm_head/cap")[
            0
        ]

    def _following(self, layer: int) -> str:
        """Return the name of the norm behind a layer."""
        names = self._parts.design.names
        is_last = layer + 1 == self._parts.config.num_layers
        return names.last_norm if is_last else f"model.layers.{layer + 1}.{names.first_norm}"

    def _behind_mlp(self, x: ir.Value, y: ir.Value, layer: int) -> tuple[ir.Value, ir.Value]:
        """Add an MLP's output, and what the tokens give a layer, to the residual sum; return its norm and the sum."""
        parts, following = self._parts, self._following(layer)
        if self._per_layer is None:
            return parts.summed_norm(x, y, following)
        path = path_of(f"model.layers.{layer}")
        x = self._per_layer.add(parts.edit.node("Add", [x, y], f"{path}/mlp/sum"), layer)
        return parts.norm(x, following), x

    def _mlp(self, x: ir.Value, layer: int) -> ir.Value:
        parts, kind = self._parts, self._parts.design.mlps[layer]
        if kind == "dense":
            return mlp(parts, x, layer)
        mixture = experts(parts, x, layer)
        if kind == "experts":
            return mixture
        return parts.edit.node(
            "Add", [mixture, mlp(parts, x, layer)], f"{path_of(f'model.layers.{layer}')}/experts/both"
        )

    def _mixed(self, mixer: Mixer, x: ir.Value, layer: int, step: StepValues) -> Mixed:
        if mixer == "conv":
            return short_conv(self._parts, x, layer, step)
        if mixer == "delta":
            assert self._delta_net is not None
            return self._delta_net.mix(x, layer, step)
        if mixer == "mamba":
            assert self._mamba is not None
            return self._mamba.mix(x, layer, step)
        return self._attention.mix(x, layer, step)

    def _residual(self, y: ir.Value, path: str) -> ir.Value:
        """Scale a block's output for the residual sum."""
        return self._parts.scaled(y, self._parts.design.residual_scale, f"{path}/residual")
