"""The memory of a slot, as a decoder graph declares it by the names and the fixed dimensions of its inputs.

    past_key_values.I.key, .value   (batch, kv_heads, capacity, head_dim)     a vector for each token
    past_conv.I                     (batch, channels, columns)                the last inputs of a short convolution
    past_recurrent.I                (batch, heads, key_dim, value_dim)        the matrices of a linear attention

`I` is the layer. A layer has what its inputs name: one without attention has no keys and values, and neither has one
that reads those of another layer. Each input has an output of the same shape, which is bound to the same memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from appliance.engine.graphs.onnx_proto import FLOAT, FLOAT16, INT8, Message, parse
from appliance.errors import ModelError

Dims = Sequence[int | str | None]

_KV = "past_key_values."
STATES = ("past_conv.", "past_recurrent.")
_DTYPES = {FLOAT: "float32", FLOAT16: "float16", INT8: "int8"}


@dataclass(frozen=True, slots=True)
class GraphInput:
    """An input of a graph: its name, its dimensions (None or a name for a free one) and its type, None if unknown."""

    name: str
    dims: Dims
    dtype: str | None


@dataclass(frozen=True, slots=True)
class SlotArray:
    """An array of a slot: `shape` (kv_heads, head_dim) of keys or values for one token, or of a whole state."""

    past: str
    present: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Return the bytes of one token, or of a state."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class SlotLayout:
    """The arrays of a slot: keys and values, which grow by the token, and states, which do not."""

    kv: tuple[SlotArray, ...]
    states: tuple[SlotArray, ...] = ()

    @property
    def state_bytes(self) -> int:
        """Return the bytes of a slot's state; 0 for a model without recurrent layers."""
        return sum(array.num_bytes for array in self.states)

    def token_bytes(self, dtype: str | None = None) -> int:
        """Return the bytes of a token's keys and values, in the graph's own type or in another one."""
        size = None if dtype is None else np.dtype(dtype).itemsize
        return sum(array.num_bytes if size is None else math.prod(array.shape) * size for array in self.kv)


def slot_layout(inputs: Iterable[GraphInput]) -> SlotLayout:
    """Return the layout that a graph's inputs declare.

    Raises:
        ModelError: an input of the slot has a dimension that is not fixed, or another type than the engine keeps.
    """
    kv, states = [], []
    for value in inputs:
        if value.name.startswith(_KV):
            _, heads, _, width = [*value.dims, *[None] * 4][:4]
            kv.append(_array(value, (heads, width), value.name.replace(_KV, "present.", 1)))
        elif value.name.startswith(STATES):
            states.append(_array(value, value.dims[1:], value.name.replace("past", "present", 1)))
    return SlotLayout(tuple(kv), tuple(states))


def layout_of(model: bytes) -> SlotLayout:
    """Return the layout that a decoder graph declares.

    Raises:
        ModelError: the bytes are no such graph.
    """
    return layout_of_graph(parse(model).graph)


def layout_of_graph(graph: Message) -> SlotLayout:
    """Return the layout that a parsed graph declares; raises as `slot_layout` does."""
    inputs = []
    for value in graph.input:
        tensor = value.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
        inputs.append(GraphInput(value.name, dims, _DTYPES.get(tensor.elem_type)))
    return slot_layout(inputs)


def has_state(model: bytes) -> bool:
    """Return True if a graph has layers whose state stands for all tokens before it."""
    return any(value.name.startswith(STATES) for value in parse(model).graph.input)


def _array(value: GraphInput, dims: Dims, present: str) -> SlotArray:
    shape = tuple(dim for dim in dims if isinstance(dim, int) and dim > 0)
    if not dims or len(shape) != len(dims) or value.dtype is None:
        raise ModelError(f"the graph's input {value.name} has no fixed shape or an unknown type: {list(value.dims)}")
    return SlotArray(value.name, present, np.dtype(value.dtype), shape)
