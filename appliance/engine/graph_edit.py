"""Two variants of a decoder graph, made on the device from the optimized one: they share its weights and need no onnx.

Protobuf keeps what a message type does not name, so that a few fields are enough to rewrite a graph; their numbers are
those of onnx.proto.

*stepwise*: several tokens of a row in one run, computed exactly as one after the other would be. Only attention tells
the two apart (one token takes another kernel than several), so that it is unrolled: token i has an operator of its own,
which finds the keys and values of the tokens before it already written.

*int8*: keys and values in a quarter of the memory, scaled by channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from numpy.typing import NDArray

from appliance.errors import ModelError

_Message = Any  # made at run time, so that no type checker can know its fields
_FIELD = descriptor_pb2.FieldDescriptorProto
_ATTENTION = "GroupQueryAttention"
_PAST, _LENGTHS, _SCALES = (3, 4), (5, 6), (12, 13)  # its inputs
_INT8, _INT32, _INT64, _FLOAT = 3, 6, 7, 1  # TensorProto.DataType
_IS_INT, _IS_STRING = 2, 3  # AttributeProto.AttributeType

_TYPES: dict[str, dict[str, tuple[int, int | str, bool]]] = {
    "Model": {"graph": (7, "Graph", False)},
    "Graph": {
        "node": (1, "Node", True),
        "initializer": (5, "Tensor", True),
        "input": (11, "Value", True),
        "output": (12, "Value", True),
    },
    "Node": {
        "input": (1, _FIELD.TYPE_STRING, True),
        "output": (2, _FIELD.TYPE_STRING, True),
        "name": (3, _FIELD.TYPE_STRING, False),
        "op_type": (4, _FIELD.TYPE_STRING, False),
        "attribute": (5, "Attribute", True),
        "domain": (7, _FIELD.TYPE_STRING, False),
    },
    "Attribute": {
        "name": (1, _FIELD.TYPE_STRING, False),
        "i": (3, _FIELD.TYPE_INT64, False),
        "s": (4, _FIELD.TYPE_BYTES, False),
        "type": (20, _FIELD.TYPE_INT32, False),
    },
    "Tensor": {
        "dims": (1, _FIELD.TYPE_INT64, True),
        "data_type": (2, _FIELD.TYPE_INT32, False),
        "name": (8, _FIELD.TYPE_STRING, False),
        "raw_data": (9, _FIELD.TYPE_BYTES, False),
    },
    "Value": {"name": (1, _FIELD.TYPE_STRING, False), "type": (2, "Type", False)},
    "Type": {"tensor_type": (1, "TensorType", False)},
    "TensorType": {"elem_type": (1, _FIELD.TYPE_INT32, False)},
}


def stepwise(model: bytes, num_tokens: int) -> bytes:
    """The variant for `num_tokens` a row: `present.I.key` and `.value` also come as `.J` for each token but the last.

    All of them, and the past, have to be bound to the same memory.

    Raises:
        ModelError: it has no attention that could be unrolled.
    """
    parsed = _parse(model)
    graph = parsed.graph
    nodes = list(graph.node)
    _refuse_without_attention(nodes)
    del graph.node[:]
    outputs = {value.name: value for value in graph.output}
    _constant(graph, "stepwise.sizes", np.ones(num_tokens, np.int64))
    for i in range(1, num_tokens):
        _constant(graph, f"stepwise.offset.{i}", np.array(i, np.int32))
    lengths: set[str] = set()
    for node in nodes:
        if node.op_type != _ATTENTION:
            graph.node.append(node)
            continue
        for name in (node.input[at] for at in _LENGTHS):
            if name not in lengths:
                lengths.add(name)
                for i in range(1, num_tokens):
                    _node(graph, "Add", [name, f"stepwise.offset.{i}"], [_at(name, i)])
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
    parsed = _parse(model)
    graph = parsed.graph
    attentions = _refuse_without_attention(list(graph.node))
    if scales.size % (2 * len(attentions)) or not (np.isfinite(scales).all() and (scales > 0).all()):
        raise ModelError(f"the scales of keys and values do not fit {len(attentions)} layers of attention")
    by_layer = scales.reshape(len(attentions), 2, -1)
    for value in [*graph.input, *graph.output]:
        if value.name.startswith(("past_key_values.", "present.")):
            value.type.tensor_type.elem_type = _INT8
    for node in attentions:
        layer = int(node.input[_PAST[0]].split(".")[1])
        node.input.extend([""] * (max(_SCALES) + 1 - len(node.input)))
        for part, at, values in zip(("k", "v"), _SCALES, by_layer[layer], strict=True):
            node.input[at] = f"{part}_scale.{layer}"
            _constant(graph, node.input[at], values)
            _set_attribute(node, f"{part}_quant_type", s=b"PER_CHANNEL", type=_IS_STRING)
        _set_attribute(node, "kv_cache_bit_width", i=8, type=_IS_INT)
    return bytes(parsed.SerializeToString())


def _unroll(graph: _Message, node: _Message, num_tokens: int, outputs: dict[str, _Message]) -> None:
    """Token by token; each writes its keys and values where the next one reads them."""
    parts = {at: name for at, name in enumerate(node.input[: _PAST[0]]) if name}
    for name in parts.values():
        _node(graph, "Split", [name, "stepwise.sizes"], [f"{name}/{node.name}.{i}" for i in range(num_tokens)], axis=1)
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
    _node(graph, "Concat", [f"{node.output[0]}.{i}" for i in range(num_tokens)], [node.output[0]], axis=1)


def _refuse_without_attention(nodes: list[_Message]) -> list[_Message]:
    found = [node for node in nodes if node.op_type == _ATTENTION]
    if not found:
        raise ModelError("the graph holds no GroupQueryAttention")
    return found


def _at(name: str, i: int) -> str:
    return f"{name}.{i}" if i else name


def _node(graph: _Message, op_type: str, inputs: list[str], outputs: list[str], *, axis: int | None = None) -> None:
    node = graph.node.add(op_type=op_type, name=f"stepwise/{outputs[0]}")
    node.input.extend(inputs)
    node.output.extend(outputs)
    if axis is not None:
        node.attribute.add(name="axis", i=axis, type=_IS_INT)


def _set_attribute(node: _Message, name: str, **value: int | bytes) -> None:
    """In place of the default that the optimizer wrote down, where it did."""
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.add(name=name, **value)


def _constant(graph: _Message, name: str, value: NDArray[np.generic]) -> None:
    types = {"int32": _INT32, "int64": _INT64, "float32": _FLOAT}
    graph.initializer.add(name=name, dims=value.shape, data_type=types[value.dtype.name], raw_data=value.tobytes())


def _parse(model: bytes) -> _Message:
    parsed = _MODEL()
    parsed.ParseFromString(model)
    return parsed


def _model_type() -> type[_Message]:
    file = descriptor_pb2.FileDescriptorProto(name="lantern/graph.proto", package="lantern.graph", syntax="proto2")
    for type_name, fields in _TYPES.items():
        message = file.message_type.add(name=type_name)
        for name, (number, kind, is_repeated) in fields.items():
            label = _FIELD.LABEL_REPEATED if is_repeated else _FIELD.LABEL_OPTIONAL
            field = message.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".lantern.graph.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found: type[_Message] = message_factory.GetMessageClass(pool.FindMessageTypeByName("lantern.graph.Model"))
    return found


_MODEL = _model_type()
