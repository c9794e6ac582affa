"""A text encoder as one graph: input_ids, attention_mask (B, S) int64 -> unit vectors (B, D), or one score a pair (B,).

Padding is removed inside the graph: every product runs on packed tokens (T, hidden), and attention alone sees (B, S).
So a short text in a batch of long ones costs its own length, and its vector is the same as alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common as passes

from quantize.graph import nbits
from quantize.graph.codec import BLOCK, round_to_nearest
from quantize.graph.edit import MICROSOFT, Editor, new_input
from quantize.kinds.encoder_graph.attention import Attention
from quantize.kinds.encoder_graph.measured import Seen
from quantize.kinds.encoder_graph.packing import Packing, ints
from quantize.kinds.encoder_graph.pooling import unit_vectors
from quantize.kinds.encoder_graph.products import Products
from quantize.kinds.encoder_graph.tensors import EmbeddingWeights, EncoderWeights, LayerWeights, Linear, Norm, Tensors
from quantize.sources.encoder_config import EncoderConfig
from quantize.sources.sentence import SentenceLayout

_OPSET = 18
_IR_VERSION = 10
_FLOAT, _INT64 = ir.DataType.FLOAT, ir.DataType.INT64
_DIMS = ("batch_size", "sequence_length")


class EncoderGraph:
    """The builder of one graph, used once; `products` holds the inputs of the products, for calibration."""

    def __init__(
        self,
        config: EncoderConfig,
        tensors: Tensors,
        *,
        seen: Mapping[str, Seen] | None = None,
        smoothing: float = 0.0,
    ) -> None:
        """Prepare an int8 graph if the float form's inputs were `seen` (see Products), else a float one."""
        self.config = config
        self.weights = EncoderWeights(config, tensors)
        self._graph = ir.Graph([], [], nodes=[], opset_imports={"": _OPSET, MICROSOFT: 1}, name="encoder")
        self.edit = Editor(self._graph)
        self.products = Products(self.edit, seen, smoothing)

    def vectors(self, layout: SentenceLayout) -> ir.Model:
        """Build the graph of an embedding model: sentence_embedding (B, D), of unit length.

        Raises:
            QuantizeError: a weight is missing or has another shape than config.json says.
        """
        packing, _ = self._inputs(has_pairs=False)
        width = self.config.hidden_size
        output = unit_vectors(self.edit, packing, self._hidden(packing, None), width, layout)
        return self._model(output, ["batch_size", layout.dimensions(width)])

    def scores(self) -> ir.Model:
        """Build the graph of a reranker, which takes token_type_ids too: relevance_logit (B,).

        Raises:
            QuantizeError: a weight is missing or has another shape than config.json says.
        """
        packing, types = self._inputs(has_pairs=True)
        hidden, width = self._hidden(packing, types), self.config.hidden_size
        is_mean = self.config.classifier_pooling == "mean"
        pooled = packing.mean_rows(hidden, width, "mean") if is_mean else packing.first_rows(hidden, "cls")
        column = self._head(pooled)
        output = self.edit.node("Squeeze", [column, ints(self.edit, "last", [-1])], "relevance_logit")
        return self._model(output, ["batch_size"])

    def _inputs(self, *, has_pairs: bool) -> tuple[Packing, ir.Value | None]:
        names = ["input_ids", "attention_mask"] + (["token_type_ids"] if has_pairs else [])
        values = [new_input(name, _INT64, _DIMS) for name in names]
        self._graph.inputs.extend(values)
        return Packing.of(self.edit, values[0], values[1]), values[2] if has_pairs else None

    def _model(self, output: ir.Value, shape: list[int | str]) -> ir.Model:
        output.type, output.shape = ir.TensorType(_FLOAT), ir.Shape(shape)
        self._graph.outputs.append(output)
        model = ir.Model(self._graph, ir_version=_IR_VERSION)
        passes.RemoveUnusedNodesPass()(model)
        return model

    def _hidden(self, packing: Packing, types: ir.Value | None) -> ir.Value:
        """Compute the rows (T, hidden) after the last layer."""
        ids = packing.pack(self._graph.inputs[0], "ids")
        x = self._embed(ids, None if types is None else packing.pack(types, "types"), packing)
        attention = Attention(self.edit, self.config, packing, self.weights.relative_bias())
        final = self.weights.final_norm()
        if final is None:
            for index in range(self.config.num_layers):
                x = self._layer(x, index, attention)
            return x
        return self._layers_with_norms_first(x, final, attention)

    def _embed(self, ids: ir.Value, types: ir.Value | None, packing: Packing) -> ir.Value:
        rows = self.weights.embeddings()
        x = self._word_rows(rows.words, ids)
        table = rows.positions
        if table is not None and rows.types is not None:
            table = table + rows.types[0]
        if table is not None:
            places = self.edit.constant("embeddings.position", table)
            skip = self.edit.node("Gather", [places, packing.packed_positions()], "position_rows")
            skip = self._with_types(skip, rows, types)
            return self._normed_sum(x, skip, rows.norm, None, "embedded")[0]
        if rows.types is not None:
            x = self.edit.node("Add", [x, self.edit.constant("embeddings.type", rows.types[0])], "typed_rows")
        return self._norm(self._with_types(x, rows, types), rows.norm, "embedded")

    def _with_types(self, x: ir.Value, rows: EmbeddingWeights, types: ir.Value | None) -> ir.Value:
        """Add the difference of the other token types to rows that count every token as of the first type."""
        if types is None or rows.types is None or len(rows.types) < 2:
            return x
        table = self.edit.constant("embeddings.other_types", rows.types - rows.types[0])
        return self.edit.node("Add", [x, self.edit.node("Gather", [table, types], "type_rows")], "rows_of_types")

    def _word_rows(self, table: NDArray[np.float32], ids: ir.Value) -> ir.Value:
        name = "embeddings.words"
        if self.products.seen is None or self.config.hidden_size % BLOCK:
            return self.edit.node("Gather", [self.edit.constant(name, table), ids], "word_rows")
        stored = round_to_nearest(table, 8)
        codes = self.edit.constant(f"{name}.codes", stored.codes)
        return nbits.lookup(self.edit, codes, ids, nbits.scales(self.edit, name, stored), stored, "word_rows")

    def _layer(self, x: ir.Value, index: int, attention: Attention) -> ir.Value:
        """Compute a layer whose norms follow the residual sums."""
        layer, name = self.weights.layer(index), f"layer{index}"
        assert layer.attention_norm is not None
        y, bias = self._attended(x, layer, index, attention)
        x, _ = self._normed_sum(y, x, layer.attention_norm, bias, f"{name}.attended")
        y, bias = self._fed_forward(x, layer, name)
        return self._normed_sum(y, x, layer.ffn_norm, bias, f"{name}.out")[0]

    def _layers_with_norms_first(self, x: ir.Value, final: Norm, attention: Attention) -> ir.Value:
        """Compute all layers of a graph whose norms come first; each norm includes the residual sum before it."""
        normed, count = x, self.config.num_layers
        layers = [self.weights.layer(index) for index in range(count)]
        for index, layer in enumerate(layers):
            name = f"layer{index}"
            y, bias = self._attended(normed, layer, index, attention)
            normed, x = self._normed_sum(y, x, layer.ffn_norm, bias, f"{name}.attended")
            y, bias = self._fed_forward(normed, layer, name)
            following = layers[index + 1].attention_norm if index + 1 < count else final
            assert following is not None
            normed, x = self._normed_sum(y, x, following, bias, f"{name}.out")
        return normed

    def _attended(
        self, x: ir.Value, layer: LayerWeights, index: int, attention: Attention
    ) -> tuple[ir.Value, ir.Value | None]:
        """Return attention's output, and the bias that is still to be added."""
        name = f"layer{index}"
        qkv = self._biased(self.products.product(x, layer.qkv.weight, f"{name}.qkv"), layer.qkv, f"{name}.qkv")
        context = attention.apply(qkv, index)
        y = self.products.product(context, layer.attention_out.weight, f"{name}.o")
        return y, self._bias_of(layer.attention_out, f"{name}.o")

    def _fed_forward(self, x: ir.Value, layer: LayerWeights, name: str) -> tuple[ir.Value, ir.Value | None]:
        """Return the second half's output, and the bias that is still to be added."""
        y = self._activated(self.products.product(x, layer.ffn_in.weight, f"{name}.ffn_in"), layer.ffn_in, name)
        y = self.products.product(y, layer.ffn_out.weight, f"{name}.ffn_out")
        return y, self._bias_of(layer.ffn_out, f"{name}.ffn_out")

    def _activated(self, y: ir.Value, linear: Linear, name: str) -> ir.Value:
        wide, edit = self.config.intermediate_size, self.edit
        if len(linear.weight) == wide:
            bias = self._bias_of(linear, f"{name}.ffn_in")
            return edit.node(
                "Gelu" if bias is None else "BiasGelu",
                [y] if bias is None else [y, bias],
                f"{name}.gelu",
                domain=MICROSOFT,
            )
        y = self._biased(y, linear, f"{name}.ffn_in")
        gate, value = edit.nodes(
            "Split", [y, ints(edit, "halves", [wide] * 2)], [f"{name}.gate", f"{name}.value"], attributes={"axis": -1}
        )
        return edit.node("Mul", [self._gate(gate, name), value], f"{name}.gated")

    def _gate(self, gate: ir.Value, name: str) -> ir.Value:
        if self.config.activation == "silu":
            return self.edit.node("QuickGelu", [gate], f"{name}.silu", domain=MICROSOFT, alpha=1.0)
        return self.edit.node("Gelu", [gate], f"{name}.gelu", domain=MICROSOFT)

    def _head(self, pooled: ir.Value) -> ir.Value:
        """Compute the head (B, 1) of (B, hidden) in float, since it runs once a text."""
        hidden = self.config.hidden_size
        match self.config.architecture:
            case "bert":
                dense, last = self.weights.linear("pooler.dense", hidden, hidden), "classifier"
            case "modernbert":
                dense, last = self.weights.linear("head.dense", hidden, hidden), "classifier"
            case _:
                dense, last = self.weights.linear("classifier.dense", hidden, hidden), "classifier.out_proj"
        y = self._float_product(pooled, dense, "head.dense")
        if self.config.architecture == "modernbert":
            y = self.edit.node("Gelu", [y], "head.gelu", domain=MICROSOFT)
            y = self._norm(y, self.weights.norm("head.norm"), "head.normed")
        else:
            y = self.edit.node("Tanh", [y], "head.tanh")
        return self._float_product(y, self.weights.linear(last, 1, hidden), "head.logit")

    def _float_product(self, x: ir.Value, linear: Linear, name: str) -> ir.Value:
        y = self.edit.node("MatMul", [x, self.edit.constant(f"{name}.weight", linear.weight.T)], f"{name}.out")
        return self._biased(y, linear, name)

    def _biased(self, y: ir.Value, linear: Linear, name: str) -> ir.Value:
        bias = self._bias_of(linear, name)
        return y if bias is None else self.edit.node("Add", [y, bias], f"{name}.biased")

    def _bias_of(self, linear: Linear, name: str) -> ir.Value | None:
        return None if linear.bias is None else self.edit.constant(f"{name}.bias", linear.bias)

    def _norm(self, x: ir.Value, norm: Norm, output: str) -> ir.Value:
        gamma, beta = self._norm_inputs(norm)
        inputs = [x, gamma] if beta is None else [x, gamma, beta]
        return self.edit.node("LayerNormalization", inputs, output, axis=-1, epsilon=self.config.layer_norm_eps)

    def _normed_sum(
        self, y: ir.Value, x: ir.Value, norm: Norm, bias: ir.Value | None, output: str
    ) -> tuple[ir.Value, ir.Value]:
        """Return the norm of x + y + bias, and that sum; onnxruntime's operator for both is four times slower."""
        edit = self.edit
        if bias is not None:
            y = edit.node("Add", [y, bias], f"{output}.biased")
        total = edit.node("Add", [y, x], f"{output}.sum")
        return self._norm(total, norm, output), total

    def _norm_inputs(self, norm: Norm) -> tuple[ir.Value, ir.Value | None]:
        beta = None if norm.beta is None else self.edit.constant(f"{norm.name}.beta", norm.beta)
        return self.edit.constant(f"{norm.name}.gamma", norm.gamma), beta
