"""Variants of a decoder graph, made on the device; they share its weights. Two come from the optimized graph:

*stepwise*: several tokens of a row in one run, computed exactly as one after the other would be. Only attention tells
the two apart (one token takes another kernel than several), so that it is unrolled: token i has an operator of its own,
which finds the keys and values of the tokens before it already written.

*int8*: keys and values in a quarter of the memory, scaled by channel.

One comes from the bundle's own graph, for another execution provider than the processor's:

*half*: attention with its keys and values in float16, since a GPU's operator takes nothing else.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from appliance.engine.onnx_proto import (
    FLOAT,
    FLOAT16,
    INT8,
    IS_INT,
    IS_STRING,
    Message,
    add_constant,
    add_node,
    parse,
    set_attribute,
)
from appliance.errors import ModelError

_ATTENTION = "GroupQueryAttention"
_PAST, _LENGTHS, _SCALES = (3, 4), (5, 6), (12, 13)  # its inputs
_ACTIVATIONS = (0, 1, 2, 7, 8, 10, 11)  # those of the activations' type: q, k, v, both tables, bias, sinks
_CACHE = ("past_key_values.", "present.")


def stepwise(model: bytes, num_tokens: int) -> bytes:
    """The variant for `num_tokens` a row: `present.I.key` and `.value` also come as `.J` for each token but the last.

    All of them, and the past, have to be bound to the same memory.

    Raises:
        ModelError: it has no attention that could be unrolled.
    """
    parsed = parse(model)
    graph = parsed.graph
    nodes = list(graph.node)
    _refuse_without_attention(nodes)
    del graph.node[:]
    outputs = {value.name: value for value in graph.output}
    add_constant(graph, "stepwise.sizes", np.ones(num_tokens, np.int64))
    for i in range(1, num_tokens):
        add_constant(graph, f"stepwise.offset.{i}", np.array(i, np.int32))
    lengths: set[str] = set()
    for node in nodes:
        if node.op_type != _ATTENTION:
            graph.node.append(node)
            continue
        for name in (node.input[at] for at in _LENGTHS):
            if name not in lengths:
                lengths.add(name)
                for i in range(1, num_tokens):
                    add_node(graph, "Add", [name, f"stepwise.offset.{i}"], [_at(name, i)])
        _unroll(graph, node, num_tokens, outputs)
    return bytes(parsed.SerializeToString())


def present_names(name: str, num_tokens: int) -> list[str]:
    """The outputs of the stepwise graph for one of the cache's arrays, "LAYER.key" or "LAYER.value"."""
    return [*(f"present.{name}.{i}" for i in range(num_tokens - 1)), f"present.{name}"]


def int8_cache(model: bytes, scales: NDArray[np.float32]) -> bytes:
    """The variant with int8 keys and values; `scales` as flat as bundle/manifest.py describes them.

    Raises:
        ModelError: the scales are not those of this graph.
    """
    parsed = parse(model)
    graph = parsed.graph
    attentions = _refuse_without_attention(list(graph.node))
    if scales.size % (2 * len(attentions)) or not (np.isfinite(scales).all() and (scales > 0).all()):
        raise ModelError(f"the scales of keys and values do not fit {len(attentions)} layers of attention")
    by_layer = scales.reshape(len(attentions), 2, -1)
    _set_cache_type(graph, INT8)
    for node in attentions:
        layer = int(node.input[_PAST[0]].split(".")[1])
        node.input.extend([""] * (max(_SCALES) + 1 - len(node.input)))
        for part, at, values in zip(("k", "v"), _SCALES, by_layer[layer], strict=True):
            node.input[at] = f"{part}_scale.{layer}"
            add_constant(graph, node.input[at], values)
            set_attribute(node, f"{part}_quant_type", s=b"PER_CHANNEL", type=IS_STRING)
        set_attribute(node, "kv_cache_bit_width", i=8, type=IS_INT)
    return bytes(parsed.SerializeToString())


def half_cache(model: bytes) -> bytes:
    """The variant with attention, keys and values in float16; everything else is computed as before.

    Raises:
        ModelError: it has no attention.
    """
    parsed = parse(model)
    graph = parsed.graph
    nodes = list(graph.node)
    _refuse_without_attention(nodes)
    del graph.node[:]
    _set_cache_type(graph, FLOAT16)
    halved: set[str] = set()
    for node in nodes:
        if node.op_type != _ATTENTION:
            graph.node.append(node)
            continue
        for at in _ACTIVATIONS:
            name = node.input[at] if at < len(node.input) else ""
            if name:
                if name not in halved:  # the tables are those of all layers
                    halved.add(name)
                    add_node(graph, "Cast", [name], [f"{name}/half"], {"to": FLOAT16})
                node.input[at] = f"{name}/half"
        result = node.output[0]
        node.output[0] = f"{result}/half"
        graph.node.append(node)
        add_node(graph, "Cast", [node.output[0]], [result], {"to": FLOAT})
    return bytes(parsed.SerializeToString())


def _set_cache_type(graph: Message, element_type: int) -> None:
    for value in [*graph.input, *graph.output]:
        if value.name.startswith(_CACHE):
            value.type.tensor_type.elem_type = element_type


def _unroll(graph: Message, node: Message, num_tokens: int, outputs: dict[str, Message]) -> None:
    """Token by token; each writes its keys and values where the next one reads them."""
    parts = {at: name for at, name in enumerate(node.input[: _PAST[0]]) if name}
    for name in parts.values():
        add_node(
            graph,
            "Split",
            [name, "stepwise.sizes"],
            [f"{name}/{node.name}.{i}" for i in range(num_tokens)],
            {"axis": 1},
        )
    past = [node.input[at] for at in _PAST]
    for i in range(num_tokens):
        is_last = i == num_tokens - 1
        token = graph.node.add()
        token.CopyFrom(node)
        token.name = f"{node.name}.{i}"
        for at, name in parts.items():
            token.input[at] = f"{name}/{node.name}.{i}"
        for at, name in zip(_PAST, past, strict=True):
            token.input[at] = name
        for at in _LENGTHS:
            token.input[at] = _at(node.input[at], i)
        token.output[0] = f"{node.output[0]}.{i}"
        for at in (1, 2):
            token.output[at] = node.output[at] if is_last else f"{node.output[at]}.{i}"
            if not is_last:
                graph.output.add().CopyFrom(outputs[node.output[at]])
                graph.output[-1].name = token.output[at]
        past = list(token.output[1:3])
    add_node(graph, "Concat", [f"{node.output[0]}.{i}" for i in range(num_tokens)], [node.output[0]], {"axis": 1})


def _refuse_without_attention(nodes: list[Message]) -> list[Message]:
    found = [node for node in nodes if node.op_type == _ATTENTION]
    if not found:
        raise ModelError("the graph holds no GroupQueryAttention")
    return found


def _at(name: str, i: int) -> str:
    return f"{name}.{i}" if i else name
