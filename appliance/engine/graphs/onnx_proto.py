"""ONNX graphs as messages, to be edited on the device, which has no onnx package.

Protobuf keeps the fields that a message type does not name, so a few are enough to rewrite a graph; their numbers are
those of onnx.proto.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from appliance.errors import ModelError

Message = Any  # made at run time, so that no type checker can know its fields

UINT8, INT8, INT32, INT64, FLOAT, FLOAT16 = 2, 3, 6, 7, 1, 10  # TensorProto.DataType
IS_FLOAT, IS_INT, IS_STRING = 1, 2, 3  # AttributeProto.AttributeType
_ATTRIBUTE_FIELDS = {IS_FLOAT: "f", IS_INT: "i", IS_STRING: "s", 7: "ints"}
EXTERNAL = 1  # TensorProto.DataLocation
MICROSOFT = "com.microsoft"
LANTERN = "lantern"  # the operators of our own library

_ELEMENT_TYPES = {"uint8": UINT8, "int8": INT8, "int32": INT32, "int64": INT64, "float32": FLOAT}
_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES: dict[str, dict[str, tuple[int, int | str, bool]]] = {
    "Model": {
        "ir_version": (1, _FIELD.TYPE_INT64, False),
        "graph": (7, "Graph", False),
        "opset_import": (8, "Opset", True),
    },
    "Opset": {"domain": (1, _FIELD.TYPE_STRING, False), "version": (2, _FIELD.TYPE_INT64, False)},
    "Graph": {
        "node": (1, "Node", True),
        "name": (2, _FIELD.TYPE_STRING, False),
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
        "f": (2, _FIELD.TYPE_FLOAT, False),
        "i": (3, _FIELD.TYPE_INT64, False),
        "s": (4, _FIELD.TYPE_BYTES, False),
        "ints": (8, _FIELD.TYPE_INT64, True),
        "type": (20, _FIELD.TYPE_INT32, False),
    },
    "Tensor": {
        "dims": (1, _FIELD.TYPE_INT64, True),
        "data_type": (2, _FIELD.TYPE_INT32, False),
        "name": (8, _FIELD.TYPE_STRING, False),
        "raw_data": (9, _FIELD.TYPE_BYTES, False),
        "external_data": (13, "Entry", True),
        "data_location": (14, _FIELD.TYPE_INT32, False),
    },
    "Entry": {"key": (1, _FIELD.TYPE_STRING, False), "value": (2, _FIELD.TYPE_STRING, False)},
    "Value": {"name": (1, _FIELD.TYPE_STRING, False), "type": (2, "Type", False)},
    "Type": {"tensor_type": (1, "TensorType", False)},
    "TensorType": {"elem_type": (1, _FIELD.TYPE_INT32, False), "shape": (2, "Shape", False)},
    "Shape": {"dim": (1, "Dim", True)},
    "Dim": {"dim_value": (1, _FIELD.TYPE_INT64, False)},
}


def parse(model: bytes) -> Message:
    """Parse a ModelProto; its `SerializeToString` gives the bytes back.

    Raises:
        ModelError: the bytes are no ModelProto.
    """
    parsed = _MODEL()
    try:
        parsed.ParseFromString(model)
    except DecodeError as err:
        raise ModelError(f"the file is not a graph: {err}") from err
    return parsed


def empty_like(model: Message) -> Message:
    """Return a model of the same operator sets without a node."""
    made = _MODEL(ir_version=model.ir_version)
    made.opset_import.MergeFrom(model.opset_import)
    made.graph.name = "part"
    return made


def add_node(
    graph: Message,
    op_type: str,
    inputs: list[str],
    outputs: list[str],
    attributes: Mapping[str, float] | None = None,
    *,
    domain: str = "",
) -> None:
    """Append a node; its attributes are integers and floats."""
    node = graph.node.add(op_type=op_type, name=f"{op_type}/{outputs[0]}", domain=domain)
    node.input.extend(inputs)
    node.output.extend(outputs)
    for key, value in (attributes or {}).items():
        if isinstance(value, int):
            node.attribute.add(name=key, i=value, type=IS_INT)
        else:
            node.attribute.add(name=key, f=value, type=IS_FLOAT)


def set_attribute(node: Message, name: str, **value: int | bytes) -> None:
    """Replace the attribute of this name, which may be a default that the optimizer wrote down."""
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.add(name=name, **value)


def attributes_of(node: Message) -> dict[str, float | bytes | list[int]]:
    """Return those attributes of a node that are a number, a text or a list of integers."""
    found = {a.name: getattr(a, _ATTRIBUTE_FIELDS[a.type]) for a in node.attribute if a.type in _ATTRIBUTE_FIELDS}
    return {name: value if isinstance(value, int | float | bytes) else list(value) for name, value in found.items()}


def add_constant(graph: Message, name: str, value: NDArray[np.generic]) -> None:
    """Append an initializer whose bytes are in the model."""
    graph.initializer.add(
        name=name, dims=value.shape, data_type=_ELEMENT_TYPES[value.dtype.name], raw_data=value.tobytes()
    )


def add_external(graph: Message, name: str, value: NDArray[np.generic], location: str, offset: int) -> None:
    """Append an initializer whose bytes lie at `offset` in the file `location` beside the model."""
    tensor = graph.initializer.add(
        name=name, dims=value.shape, data_type=_ELEMENT_TYPES[value.dtype.name], data_location=EXTERNAL
    )
    for key, text in (("location", location), ("offset", str(offset)), ("length", str(value.nbytes))):
        tensor.external_data.add(key=key, value=text)


def tensor_value(tensor: Message, folder: Path) -> NDArray[np.generic]:
    """Return the values of an initializer, from the model or from a file of its folder.

    Raises:
        ModelError: its type is none that `add_constant` writes.
    """
    dtype = next((name for name, known in _ELEMENT_TYPES.items() if known == tensor.data_type), None)
    if dtype is None or not (tensor.raw_data or tensor.data_location == EXTERNAL):
        raise ModelError(f"the values of {tensor.name} have an unknown form")
    if tensor.data_location != EXTERNAL:
        return np.frombuffer(tensor.raw_data, dtype).reshape(tensor.dims)
    place, count = external_place(tensor), math.prod(tensor.dims)
    values = np.fromfile(folder / place["location"], dtype, count, offset=int(place.get("offset", 0)))
    return values.reshape(tensor.dims)


def external_place(tensor: Message) -> dict[str, str]:
    """Return the place of an initializer's values outside of the model: `location`, `offset`, `length`."""
    return {entry.key: entry.value for entry in tensor.external_data}


def external_array(tensor: Message, location: str, data: NDArray[np.uint8]) -> NDArray[np.generic] | None:
    """Return an initializer's values in `data`, the content of the file `location`; None if they are elsewhere.

    Raises:
        ModelError: the file is too short, or the type is none that `add_constant` writes.
    """
    place = external_place(tensor)
    if tensor.data_location != EXTERNAL or place.get("location") != location:
        return None
    dtype = next((np.dtype(name) for name, known in _ELEMENT_TYPES.items() if known == tensor.data_type), None)
    begin, size = int(place.get("offset", 0)), 0 if dtype is None else math.prod(tensor.dims) * dtype.itemsize
    if dtype is None or begin + size > len(data):
        raise ModelError(f"the values of {tensor.name} are not whole in {location}")
    return data[begin : begin + size].view(dtype).reshape(tensor.dims)


def add_value(values: Message, name: str, element_type: int) -> None:
    """Append an input or an output of the graph, of any shape."""
    values.add(name=name).type.tensor_type.elem_type = element_type


def _model_type() -> type[Message]:
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
    found: type[Message] = message_factory.GetMessageClass(pool.FindMessageTypeByName("lantern.graph.Model"))
    return found


_MODEL = _model_type()
