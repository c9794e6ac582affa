"""The fusion of exported attention into GroupQueryAttention with rotary positions and packed Q, K and V.

Found from the names that optimum guarantees (past_key_values.I, present.I) and by dataflow, not by a pattern of the
whole subgraph, so that bias, query and key norms, windows and one fused projection need no form of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantize.fusion.rope import unrotate
from quantize.graph.edit import (
    MICROSOFT,
    Editor,
    computed_input,
    constant_of,
    refuse,
    replace_value,
    scalar_of,
    source_of,
)
from quantize.graph.rope_tables import RopeTables
from quantize.sources.decoder_config import DecoderConfig

_NORM = "SimplifiedLayerNormalization"
_NUM_QKV = 3
_TOLERANCE = 1e-5
_ALONG_VALUES = frozenset({"Unsqueeze", "Expand", "Reshape", "Cast", "Identity"})


@dataclass(frozen=True, slots=True)
class StepInputs:
    """The graph inputs that place a step's tokens in the K/V rows."""

    seqlens_k: ir.Value
    total_sequence_length: ir.Value


class AttentionFuser:
    """The fusion of one graph's layers, one after another."""

    def __init__(self, edit: Editor, config: DecoderConfig, step: StepInputs, tables: RopeTables) -> None:
        self._edit = edit
        self._config = config
        self._step = step
        self._tables = tables
        self._inputs = {value.name: value for value in edit.graph.inputs}
        self._outputs = {value.name: value for value in edit.graph.outputs}

    def fuse(self, layer: int) -> None:
        """Replace the attention of one layer.

        Raises:
            QuantizeError: naming the node that was not recognized.
        """
        keys, values = self._output(layer, "key"), self._output(layer, "value")
        past_k, past_v = self._input(layer, "key"), self._input(layer, "value")
        k_rotated, v = _appended(keys, past_k), _appended(values, past_v)
        weighted_sum = _find_weighted_sum(values)
        end = _end_of(weighted_sum)
        q_rotated, scale = _query_and_scale(weighted_sum)
        design = self._config.design
        if not np.isclose(scale, design.attention_scale, rtol=_TOLERANCE, atol=0):
            raise refuse(end, f"scores are scaled by {scale:g}; config.json says {design.attention_scale:g}")
        rotation = design.rotations[layer]
        q, k = unrotate(q_rotated, rotation), unrotate(k_rotated, rotation)
        prefix = f"/layers.{layer}/attn"
        qkv = self._projected([_Projected.of(value) for value in (q, k, v)], layer, end)
        outputs = self._edit.nodes(
            "GroupQueryAttention",
            [
                *qkv,
                past_k,
                past_v,
                self._step.seqlens_k,
                self._step.total_sequence_length,
                *self._tables.of(rotation),
            ],
            [f"{prefix}/out", f"{prefix}/present_key", f"{prefix}/present_value"],
            name=f"{prefix}/GroupQueryAttention",
            attributes={
                "num_heads": self._config.num_heads,
                "kv_num_heads": self._config.num_kv_heads,
                "scale": float(np.float32(design.attention_scale)),  # exported as a product of two roots
                "do_rotary": int(rotation is not None),
                "rotary_interleaved": 0,
                "local_window_size": self._config.window_of(layer) or -1,
            },
            domain=MICROSOFT,
            before=end,
        )
        replace_value(end.outputs[0], outputs[0])
        self._replace_output(keys, outputs[1], past_k)
        self._replace_output(values, outputs[2], past_v)

    def _input(self, layer: int, part: str) -> ir.Value:
        name = f"past_key_values.{layer}.{part}"
        if name not in self._inputs:
            raise refuse(None, f"it has no input {name}")
        return self._inputs[name]

    def _output(self, layer: int, part: str) -> ir.Value:
        name = f"present.{layer}.{part}"
        if name not in self._outputs:
            raise refuse(None, f"it has no output {name}")
        return self._outputs[name]

    def _replace_output(self, old: ir.Value, new: ir.Value, past: ir.Value) -> None:
        outputs, name = self._edit.graph.outputs, old.name
        old.name = f"{name}/exported"
        new.name, new.type = name, old.type
        new.shape = past.shape = ir.Shape(["batch_size", past.shape[1], "capacity", past.shape[3]])
        outputs[outputs.index(old)] = new

    def _projected(self, parts: list[_Projected], layer: int, before: ir.Node) -> list[ir.Value | None]:
        """Compute Q, K and V in one product if possible, and leave its output joined if nothing norms the heads."""
        flat = [part.flat for part in parts]
        joined = self._joined(flat, layer, before)
        norms = [part.norm for part in parts]
        if joined is not None:
            if not any(norms):
                return [joined, None, None]
            keys = self._config.num_kv_heads * self._config.head_dim
            sizes = np.array([self._config.num_heads * self._config.head_dim, keys, keys], np.int64)
            names = [f"/layers.{layer}/attn/{part}" for part in "qkv"]
            inputs = [joined, self._edit.constant("sizes_qkv", sizes)]
            flat = self._edit.nodes("Split", inputs, names, attributes={"axis": -1}, before=before)
        return [
            value if norm is None else self._normed(value, norm, before, f"/layers.{layer}/attn/{part}_norm")
            for value, norm, part in zip(flat, norms, "qkv", strict=True)
        ]

    def _normed(self, flat: ir.Value, norm: ir.Node, before: ir.Node, name: str) -> ir.Value:
        """Norm each head of (B, S, N * D) by itself, between two reshapes."""
        by_head = self._edit.constant("shape_heads", np.array([0, 0, -1, self._config.head_dim], np.int64))
        whole = self._edit.constant("shape_whole", np.array([0, 0, -1], np.int64))
        heads = self._edit.node("Reshape", [flat, by_head], f"{name}/heads", before=before)
        normed = self._edit.nodes(
            _NORM, [heads, norm.inputs[1]], [f"{name}/out"], attributes=dict(norm.attributes), before=before
        )
        return self._edit.node("Reshape", [normed[0], whole], f"{name}/flat", before=before)

    def _joined(self, qkv: list[ir.Value], layer: int, before: ir.Node) -> ir.Value | None:
        """Join Q, K and V into one product, if they are plain products of the same rows."""
        sources = [source_of(value) for value in qkv]
        if all(node.op_type == "Slice" for node in sources) and len({node.inputs[0] for node in sources}) == 1:
            whole: ir.Value = sources[0].inputs[0]
            return whole
        biases = []
        if all(node.op_type == "Add" for node in sources):
            biases = [next((a for v in n.inputs if (a := constant_of(v)) is not None), None) for n in sources]
            sources = [source_of(computed_input(node)) for node in sources]
        weights = [constant_of(node.inputs[1]) if node.op_type == "MatMul" else None for node in sources]
        known = [weight for weight in weights if weight is not None]
        if len(known) < _NUM_QKV or len({node.inputs[0] for node in sources}) != 1:
            return None
        name = f"/model/layers.{layer}/self_attn/qkv_proj"
        weight = self._edit.constant(f"layers.{layer}.qkv.weight", np.concatenate(known, axis=1))
        product = self._edit.node("MatMul", [sources[0].inputs[0], weight], f"{name}/MatMul", before=before)
        if not biases:
            return product
        bias = self._edit.constant(f"layers.{layer}.qkv.bias", np.concatenate([b for b in biases if b is not None]))
        return self._edit.node("Add", [product, bias], f"{name}/Add", before=before)


@dataclass(frozen=True, slots=True)
class _Projected:
    """The source of heads (B, N, S, D): a projection (B, S, N * D), and the norm of each head behind it, or None.

    The norm may come before the transpose or after it.
    """

    flat: ir.Value
    norm: ir.Node | None

    @classmethod
    def of(cls, heads: ir.Value) -> _Projected:
        norm, node = None, source_of(heads, "Transpose", _NORM)
        if node.op_type == _NORM:
            norm, node = node, source_of(node.inputs[0], "Transpose")
        inner = source_of(node.inputs[0], "Reshape", _NORM)
        if inner.op_type == _NORM:
            norm, inner = inner, source_of(inner.inputs[0], "Reshape")
        return cls(inner.inputs[0], norm)


def _appended(present: ir.Value, past: ir.Value) -> ir.Value:
    """Find the value that a step appends to the past."""
    concat = source_of(present, "Concat")
    added = [value for value in concat.inputs if value is not past]
    if len(added) != 1:
        raise refuse(concat, f"expected {past.name} and what is appended to it")
    value: ir.Value = added[0]
    return value


def _find_weighted_sum(values: ir.Value) -> ir.Node:
    """Find the product of the probabilities and the values."""
    todo = [values]
    while todo:
        for use in todo.pop().uses():
            if use.node.op_type == "MatMul" and use.idx == 1:
                node: ir.Node = use.node
                return node
            if use.idx == 0 and use.node.op_type in _ALONG_VALUES:
                todo.append(use.node.outputs[0])
    raise refuse(values.producer(), f"no product of attention weights reads {values.name}")


def _end_of(weighted_sum: ir.Node) -> ir.Node:
    transpose = weighted_sum.outputs[0].uses()[0].node
    end: ir.Node = transpose.outputs[0].uses()[0].node
    if (transpose.op_type, end.op_type) != ("Transpose", "Reshape"):
        raise refuse(end, "expected the attention's output to be transposed and reshaped")
    return end


def _query_and_scale(weighted_sum: ir.Node) -> tuple[ir.Value, float]:
    """Trace the weighted sum back over softmax and mask to the rotated queries, and multiply all factors on the way."""
    node = source_of(weighted_sum.inputs[0], "Where", "Softmax")
    if node.op_type == "Where":
        node = source_of(node.inputs[2], "Softmax")
    mask = source_of(node.inputs[0], "Add")
    scores = next((s for value in mask.inputs if (s := _scores(value)) is not None), None)
    if scores is None:
        raise refuse(mask, "expected a product of queries and keys plus a mask; soft-capping is not known")
    value, scale = _peel(scores)
    product = source_of(value, "MatMul")
    query, query_scale = _peel(product.inputs[0])
    _, key_scale = _peel(product.inputs[1])
    return query, scale * query_scale * key_scale


def _scores(value: ir.Value) -> ir.Value | None:
    node = value.producer()
    if node is None or constant_of(value) is not None:
        return None
    peeled, _ = _peel(value)
    node = peeled.producer()
    return value if node is not None and node.op_type == "MatMul" else None


def _peel(value: ir.Value) -> tuple[ir.Value, float]:
    """Strip a value of its constant factors, and return it with their product."""
    scale = 1.0
    node = value.producer()
    while node is not None and node.op_type in {"Mul", "Cast", "Identity"}:
        if node.op_type == "Mul":
            factor = scalar_of(node)
            if factor is None:
                break
            scale *= factor
            value = computed_input(node)
        else:
            value = node.inputs[0]
        node = value.producer()
    return value, scale
