"""A BERT or RoBERTa encoder as one graph: input_ids, attention_mask (B, S) int64 -> sentence_embedding (B, D).

The vectors have length 1.

Padding is removed inside the graph: every product runs on packed tokens (T, hidden), and attention alone sees (B, S).
So a short text in a batch of long ones costs its own length, and its vector is the same as alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.errors import QuantizeError
from quantize.encoders.products import Products
from quantize.graph import nbits
from quantize.graph.codec import BLOCK, round_to_nearest
from quantize.graph.edit import MICROSOFT, Editor, new_input
from quantize.sources.checkpoint import EncoderConfig
from quantize.sources.sentence import Pooling

_OPSET = 18
_IR_VERSION = 10
_FLOAT, _INT32 = ir.DataType.FLOAT, ir.DataType.INT32

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class _Packing:
    """How packed tokens (T) and padded positions (B * S) find each other."""

    mask: ir.Value  # (B, S) int32
    batch_shape: ir.Value  # [B, S]
    to_packed: ir.Value  # (T,) the padded position of each packed token
    to_padded: ir.Value  # (B * S,) the packed token of each padded position


class EncoderGraph:
    """Builds the graph; `products` holds what was multiplied, for calibration."""

    def __init__(
        self,
        config: EncoderConfig,
        weights: Weights,
        pooling: Pooling,
        *,
        peaks: Mapping[str, NDArray[np.float32]] | None = None,
        smoothing: float = 0.0,
    ) -> None:
        """int8 with `peaks` (see Products), else float."""
        self._config = config
        self._weights = weights
        self._pooling = pooling
        self._graph = ir.Graph([], [], nodes=[], opset_imports={"": _OPSET, MICROSOFT: 1}, name="encoder")
        self._edit = Editor(self._graph)
        self.products = Products(self._edit, peaks, smoothing)

    def build(self) -> ir.Model:
        """The whole model.

        Raises:
            QuantizeError: a weight is missing or has another shape than config.json says.
        """
        ids = new_input("input_ids", ir.DataType.INT64, ["batch_size", "sequence_length"])
        mask = new_input("attention_mask", ir.DataType.INT64, ["batch_size", "sequence_length"])
        self._graph.inputs.extend([ids, mask])
        packing = self._packing(ids, mask)
        x = self._embed(ids, packing)
        for layer in range(self._config.num_layers):
            x = self._layer(x, layer, packing)
        vectors = self._pool(x, mask, packing)
        vectors.type, vectors.shape = ir.TensorType(_FLOAT), ir.Shape(["batch_size", self._config.hidden_size])
        self._graph.outputs.append(vectors)
        return ir.Model(self._graph, ir_version=_IR_VERSION)

    def _weight(self, name: str, *shape: int) -> NDArray[np.float32]:
        if name not in self._weights:
            raise QuantizeError(f"the weights have no {name}; only encoders of the form of BERT are known")
        array = self._weights[name]
        if array.shape != shape:
            raise QuantizeError(f"{name} has the shape {list(array.shape)}, but config.json says {list(shape)}")
        return np.asarray(array, np.float32)

    def _constant(self, name: str, *shape: int) -> ir.Value:
        return self._edit.constant(name, self._weight(name, *shape))

    def _ints(self, name: str, values: list[int]) -> ir.Value:
        return self._edit.constant(name, np.array(values, np.int64))

    def _packing(self, ids: ir.Value, mask: ir.Value) -> _Packing:
        edit, flat = self._edit, self._ints("flat", [-1])
        mask32 = edit.node("Cast", [mask], "mask32", to=_INT32)
        mask_flat = edit.node("Reshape", [mask32, flat], "mask_flat")
        packed = edit.node("Reshape", [edit.node("NonZero", [mask_flat], "nonzero"), flat], "to_packed")
        count = edit.node("CumSum", [mask_flat, edit.constant("axis_0", np.int64(0))], "count")
        index = edit.node("Sub", [count, edit.constant("one_i32", np.int32(1))], "index")
        padded = edit.node("Max", [index, edit.constant("zero_i32", np.int32(0))], "to_padded")
        return _Packing(mask32, edit.node("Shape", [ids], "batch_shape"), packed, padded)

    def _embed(self, ids: ir.Value, packing: _Packing) -> ir.Value:
        edit, hidden, flat = self._edit, self._config.hidden_size, self._ints("flat", [-1])
        tokens = edit.node("Gather", [edit.node("Reshape", [ids, flat], "ids_flat"), packing.to_packed], "ids_packed")
        length = edit.node("Squeeze", [edit.node("Shape", [ids], "length_1d", start=1, end=2)], "length")
        zero, one = edit.constant("zero_i64", np.int64(0)), edit.constant("one_i64", np.int64(1))
        positions = edit.node("Range", [zero, length, one], "positions")
        positions = edit.node("Expand", [positions, packing.batch_shape], "positions_padded")
        positions = edit.node("Reshape", [positions, flat], "positions_flat")
        positions = edit.node("Gather", [positions, packing.to_packed], "positions_packed")
        first = self._config.first_position
        rows = self._weight("embeddings.position_embeddings.weight", first + self._config.max_positions, hidden)
        table = rows[first:]
        types = self._weights.get("embeddings.token_type_embeddings.weight")
        place = edit.constant("embeddings.position", table if types is None else table + types[0])
        at = edit.node("Gather", [place, positions], "position_rows")
        return self._skip_norm(self._word_rows(tokens), at, "embeddings", None, "embedded")

    def _word_rows(self, tokens: ir.Value) -> ir.Value:
        hidden, name = self._config.hidden_size, "embeddings.word_embeddings.weight"
        table = self._weight(name, self._config.vocab_size, hidden)
        if self.products.peaks is None or hidden % BLOCK:
            return self._edit.node("Gather", [self._edit.constant(name, table), tokens], "word_rows")
        stored = round_to_nearest(table, 8)
        codes = self._edit.constant(f"{name}.codes", stored.codes)
        return nbits.lookup(self._edit, codes, tokens, nbits.scales(self._edit, name, stored), "word_rows")

    def _layer(self, x: ir.Value, layer: int, packing: _Packing) -> ir.Value:
        name, short = f"encoder.layer.{layer}", f"layer{layer}"
        hidden, wide = self._config.hidden_size, self._config.intermediate_size
        context = self._attention(x, f"{name}.attention.self", short, packing)
        out = self._weight(f"{name}.attention.output.dense.weight", hidden, hidden)
        y = self.products.product(context, out, f"{short}.o")
        bias = self._constant(f"{name}.attention.output.dense.bias", hidden)
        x = self._skip_norm(y, x, f"{name}.attention.output", bias, f"{short}.attended")
        up = self._weight(f"{name}.intermediate.dense.weight", wide, hidden)
        y = self.products.product(x, up, f"{short}.ffn_in")
        y = self._edit.node(
            "BiasGelu", [y, self._constant(f"{name}.intermediate.dense.bias", wide)], f"{short}.gelu", domain=MICROSOFT
        )
        down = self._weight(f"{name}.output.dense.weight", hidden, wide)
        y = self.products.product(y, down, f"{short}.ffn_out")
        return self._skip_norm(
            y, x, f"{name}.output", self._constant(f"{name}.output.dense.bias", hidden), f"{short}.out"
        )

    def _attention(self, x: ir.Value, name: str, short: str, packing: _Packing) -> ir.Value:
        edit, hidden = self._edit, self._config.hidden_size
        parts = ("query", "key", "value")
        weight = np.concatenate([self._weight(f"{name}.{part}.weight", hidden, hidden) for part in parts])
        bias = np.concatenate([self._weight(f"{name}.{part}.bias", hidden) for part in parts])
        qkv = self.products.product(x, weight, f"{short}.qkv")
        qkv = edit.node("Add", [qkv, edit.constant(f"{short}.qkv.bias", bias)], f"{short}.qkv.biased")
        qkv = edit.node("Gather", [qkv, packing.to_padded], f"{short}.qkv.padded")
        wide = edit.node(
            "Concat", [packing.batch_shape, self._ints("three_hidden", [3 * hidden])], f"{short}.shape", axis=0
        )
        qkv = edit.node("Reshape", [qkv, wide], f"{short}.qkv.rows")
        split = edit.nodes(
            "Split",
            [qkv, self._ints("thirds", [hidden] * 3)],
            [f"{short}.q", f"{short}.k", f"{short}.v"],
            attributes={"axis": -1},
        )
        context = edit.node(
            "MultiHeadAttention",
            [*split, None, packing.mask],
            f"{short}.context.rows",
            domain=MICROSOFT,
            num_heads=self._config.num_heads,
        )
        context = edit.node("Reshape", [context, self._ints("flat_hidden", [-1, hidden])], f"{short}.context.padded")
        return edit.node("Gather", [context, packing.to_packed], f"{short}.context")

    def _skip_norm(self, x: ir.Value, skip: ir.Value, name: str, bias: ir.Value | None, output: str) -> ir.Value:
        hidden = self._config.hidden_size
        gamma, beta = (self._constant(f"{name}.LayerNorm.{part}", hidden) for part in ("weight", "bias"))
        inputs = [x, skip, gamma, beta] + ([bias] if bias is not None else [])
        return self._edit.node(
            "SkipLayerNormalization", inputs, output, domain=MICROSOFT, epsilon=self._config.layer_norm_eps
        )

    def _pool(self, x: ir.Value, mask: ir.Value, packing: _Packing) -> ir.Value:
        edit, hidden = self._edit, self._config.hidden_size
        rows = edit.node("Gather", [x, packing.to_padded], "hidden_padded")
        shape = edit.node("Concat", [packing.batch_shape, self._ints("hidden", [hidden])], "hidden_shape", axis=0)
        rows = edit.node("Reshape", [rows, shape], "hidden_rows")
        if self._pooling == "cls":
            pooled = edit.node("Gather", [rows, edit.constant("zero_i64", np.int64(0))], "cls", axis=1)
        else:
            weights = edit.node("Cast", [mask], "mask_float", to=_FLOAT)
            column = edit.node("Unsqueeze", [weights, self._ints("last", [-1])], "mask_column")
            masked = edit.node("Mul", [rows, column], "hidden_masked")
            total = edit.node("ReduceSum", [masked, self._ints("tokens", [1])], "hidden_sum", keepdims=0)
            count = edit.node("ReduceSum", [weights, self._ints("tokens", [1])], "num_tokens", keepdims=1)
            count = edit.node("Max", [count, edit.constant("at_least_one", np.float32(1))], "num_tokens_or_1")
            pooled = edit.node("Div", [total, count], "mean")
        return edit.node("LpNormalization", [pooled], "sentence_embedding", axis=-1, p=2)
