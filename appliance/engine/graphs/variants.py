"""Variants of a decoder graph, made on the device; they share its weights.

From the optimized graph:

*verify*: several tokens of a slot in one run, with the bits of single steps. Only onnxruntime's attention differs
between the two (one token takes another kernel than several), so it is unrolled: token i has an operator of its own,
which reads the keys and values that the tokens before it have written. Lantern's attention, and recurrent layers, go
token by token in any case.

*int8*: keys and values in a quarter of the memory, scaled by channel.

From the bundle's own graph, for a GPU:

*fp16*: attention with its keys and values in float16, the only type that the GPU's operator takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from appliance.engine.graphs.group_attention import OPERATORS, STOCK, take_stock_attention
from appliance.engine.graphs.onnx_proto import (
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
from appliance.engine.graphs.replay import show_what_states_read
from appliance.engine.graphs.slot_arrays import STATES, layout_of_graph
from appliance.errors import ModelError

_PAST, _LENGTHS, _SCALES = (3, 4), (5, 6), (12, 13)  # its inputs
_ACTIVATIONS = (0, 1, 2, 7, 8, 10, 11)  # those of the activations' type: q, k, v, both tables, bias, sinks
_CACHE = ("past_key_values.", "present.")


def verify_graph(model: bytes, num_tokens: int) -> bytes:
    """Return the variant for `num_tokens` of a slot.

    `present.I.key` and `.value` also come as `.J`, for each token but the last; all outputs whose names begin so, and
    the past, have to be bound to the same memory. States are the exception: those behind all of the tokens, some of
    which may be refused, belong elsewhere than the past; further outputs are what graphs/replay.py needs.

    Raises:
        ModelError: the graph has no attention to unroll, or a state that cannot be taken up again.
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
        if node.op_type not in OPERATORS:
            graph.node.append(node)
            continue
        is_stock = node.op_type == STOCK
        for name in (node.input[at] for at in _LENGTHS):
            for i in range(1 if is_stock else num_tokens - 1, num_tokens):
                if _at(name, i) not in lengths:
                    lengths.add(_at(name, i))
                    add_node(graph, "Add", [name, f"stepwise.offset.{i}"], [_at(name, i)])
        if is_stock:
            _unroll(graph, node, num_tokens, outputs)
            continue
        for at in _LENGTHS:  # of all tokens
            node.input[at] = _at(node.input[at], num_tokens - 1)
        graph.node.append(node)
    show_what_states_read(graph)
    return bytes(parsed.SerializeToString())


def present_names(name: str, outputs: Iterable[str]) -> list[str]:
    """Return those of a graph's outputs that stand for one of the cache's arrays, which is the output `name`."""
    return [output for output in outputs if output == name or output.startswith(f"{name}.")]


def with_int8_kv(model: bytes, scales: NDArray[np.float32]) -> bytes:
    """Return the variant with int8 keys and values; `scales` as flat as bundle/manifest.py describes them.

    Raises:
        ModelError: the scales do not fit this graph.
    """
    parsed = parse(model)
    graph = parsed.graph
    take_stock_attention(graph)
    attentions = _refuse_without_attention(list(graph.node))
    by_input = _scales_of(graph, scales)
    for name, values in by_input.items():
        add_constant(graph, _scale_name(name), values)
    _set_cache_type(graph, INT8)
    inputs = {array.present: array.past for array in layout_of_graph(graph).kv}
    for node in attentions:
        node.input.extend([""] * (max(_SCALES) + 1 - len(node.input)))
        if _is_lent(node):
            _write_back(graph, node)
        for part, past, at in zip(("k", "v"), _PAST, _SCALES, strict=True):
            source = inputs.get(node.input[past], node.input[past])
            if source not in by_input:
                raise ModelError(f"attention reads {source}, which is no input of the graph")
            node.input[at] = _scale_name(source)
            set_attribute(node, f"{part}_quant_type", s=b"PER_CHANNEL", type=IS_STRING)
        set_attribute(node, "kv_cache_bit_width", i=8, type=IS_INT)
    return bytes(parsed.SerializeToString())


def with_fp16_kv(model: bytes) -> bytes:
    """Return the variant with attention, keys and values in float16; everything else is computed as before.

    Raises:
        ModelError: the graph has no attention, or states, whose operators a GPU's provider lacks.
    """
    parsed = parse(model)
    graph = parsed.graph
    nodes = list(graph.node)
    _refuse_without_attention(nodes)
    _refuse_states(graph)
    del graph.node[:]
    _set_cache_type(graph, FLOAT16)
    halved: set[str] = set()
    for node in nodes:
        if node.op_type != STOCK:
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


def _scales_of(graph: Message, scales: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return the scales of each input for keys or values, in the order of layers; each has one for every channel."""
    arrays = sorted(layout_of_graph(graph).kv, key=lambda array: (int(array.past.split(".")[1]), array.past))
    sizes = [math.prod(array.shape) for array in arrays]
    if scales.size != sum(sizes) or not (np.isfinite(scales).all() and (scales > 0).all()):
        raise ModelError(f"the scales of keys and values do not fit {len(arrays) // 2} layers of attention")
    parts = np.split(scales.reshape(-1), np.cumsum(sizes)[:-1])
    return {array.past: part for array, part in zip(arrays, parts, strict=True)}


def _scale_name(past: str) -> str:
    _, layer, part = past.split(".")
    return f"{part[0]}_scale.{layer}"


def _refuse_states(graph: Message) -> None:
    state = next((value.name for value in graph.input if value.name.startswith(STATES)), None)
    if state is not None:
        raise ModelError(f"the graph has a recurrent state, {state}")


def _set_cache_type(graph: Message, element_type: int) -> None:
    for value in [*graph.input, *graph.output]:
        if value.name.startswith(_CACHE):
            value.type.tensor_type.elem_type = element_type


def _unroll(graph: Message, node: Message, num_tokens: int, outputs: dict[str, Message]) -> None:
    """Give each token an operator, which writes its keys and values to the memory that the next one reads.

    A layer that reads those of another one brings none: the memory holds those of all tokens by then.
    """
    is_lent = _is_lent(node)
    parts = {at: name for at, name in enumerate(node.input[: 1 if is_lent else _PAST[0]]) if name}
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
        for at in range(1, len(node.output)):
            token.output[at] = node.output[at] if is_last else f"{node.output[at]}.{i}"
            if not is_last:
                graph.output.add().CopyFrom(outputs[node.output[at]])
                graph.output[-1].name = token.output[at]
        past = past if is_lent else list(token.output[1:3])
    add_node(graph, "Concat", [f"{node.output[0]}.{i}" for i in range(num_tokens)], [node.output[0]], {"axis": 1})


def _is_lent(node: Message) -> bool:
    """Return True for attention that reads the keys and values which another layer has just written."""
    return not node.input[_PAST[0]].startswith(_CACHE[0])


def _write_back(graph: Message, node: Message) -> None:
    """Give attention over another layer's keys and values the outputs that onnxruntime asks for in int8.

    They are `present.I.key` and `.value` of that layer once more, to be bound to the same memory: nothing is added.
    """
    outputs = {value.name: value for value in graph.output}
    del node.output[1:]
    for at in _PAST:
        node.output.append(f"{node.input[at]}.{node.name}")
        graph.output.add().CopyFrom(outputs[node.input[at]])
        graph.output[-1].name = node.output[-1]


def _refuse_without_attention(nodes: list[Message]) -> list[Message]:
    found = [node for node in nodes if node.op_type in OPERATORS]
    if not found:
        raise ModelError("the graph holds no GroupQueryAttention")
    return found


def _at(name: str, i: int) -> str:
    return f"{name}.{i}" if i else name
