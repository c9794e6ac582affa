"""The small operators between products that Lantern's library computes in one (docs/kernels.md).

A decoder's token is a few hundred operators, most of which take longer to be called than to compute. Split, QuickGelu
and Mul behind the product of gates and values become one GatedUnit; a convolution with state and the transpositions
around it become one CausalConvRows. Norms take one operator either way; ours has the same bits on every processor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from appliance.engine.graphs.onnx_proto import LANTERN, Message, add_node, attributes_of, tensor_value

CONVOLUTION: Final = "CausalConvRows"
NORM: Final = "RMSNorm"
SKIP_NORM: Final = "SkipRMSNorm"
_UNIT: Final = "GatedUnit"
_STORED_NORM, _STORED_SKIP_NORM = "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"
_STORED_CONVOLUTION: Final = "CausalConvWithState"
_ROWS_AND_COLUMNS: Final = [0, 2, 1]
_MOST_TAPS: Final = 8  # kMostTaps of causal_conv.cpp
_KERNEL, _BIAS, _STATE = 1, 2, 3  # inputs of a stored convolution
# Its attributes: their defaults, as the optimizer writes them down, and what else is known.
_PLAIN: Final[Mapping[str, tuple[int | bytes, ...]]] = {
    "activation": (b"none", b"", b"silu"),
    "channels_last": (0,),
    "dilation": (1,),
    "input_channel_offset": (0,),
    "input_channels": (0,),
    "ndim": (1,),
    "state_channels_last": (-1, 0),
    "state_length": (0,),
    "state_update_capacity": (0,),
    "state_window": (0,),
}


class _Fused(NamedTuple):
    """Operators in the order of their work, and the inputs, outputs and attributes of the one that does it instead."""

    nodes: Sequence[Message]
    op_type: str
    inputs: list[str]
    outputs: list[str]
    attributes: Mapping[str, float]


def fuse_small_operators(graph: Message, tensors: Mapping[str, Message]) -> None:
    """Replace what the library computes in one, in place; other forms stay as they are. `tensors`: the constants."""
    uses = _Uses(graph, tensors)
    finders: tuple[Callable[[Message, _Uses], _Fused | None], ...] = (_unit, _convolution, _norm, _skip_norm)
    found = [one for node in graph.node for find in finders if (one := find(node, uses)) is not None]
    last = {tuple(one.nodes[-1].output): one for one in found}
    gone = {tuple(node.output) for one in found for node in one.nodes}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        one = last.get(tuple(node.output))
        if one is not None:
            add_node(graph, one.op_type, one.inputs, one.outputs, one.attributes, domain=LANTERN)
        elif tuple(node.output) not in gone:
            graph.node.append(node)


class _Uses:
    """The makers and the readers of a graph's values."""

    def __init__(self, graph: Message, tensors: Mapping[str, Message]) -> None:
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.tensors = tensors
        self._readers = {name: node for node in graph.node for name in node.input}
        self._counts = Counter(name for node in graph.node for name in node.input)
        self._counts.update(value.name for value in graph.output)

    def only_reader(self, name: str, op_type: str) -> Message | None:
        """Return the one reader of a value, if it is such an operator."""
        reader = self._readers.get(name)
        return reader if reader is not None and self._counts[name] == 1 and reader.op_type == op_type else None


def _unit(split: Message, uses: _Uses) -> _Fused | None:
    """Return a Split in halves, of which the first one is a gate, with what follows it."""
    if split.op_type != "Split" or not _is_in_halves(split, uses):
        return None
    gate, value = split.output
    act = uses.only_reader(gate, "QuickGelu")
    if act is None or attributes_of(act).get("alpha") != 1.0:
        return None
    product = uses.only_reader(act.output[0], "Mul")
    if product is None or uses.only_reader(value, "Mul") != product:
        return None
    return _Fused((split, act, product), _UNIT, [split.input[0]], [product.output[0]], {})


def _is_in_halves(split: Message, uses: _Uses) -> bool:
    """Return True if a Split halves the last axis."""
    sizes = uses.tensors.get(split.input[1]) if len(split.input) > 1 else None
    if attributes_of(split).get("axis") != -1 or sizes is None or not sizes.raw_data:
        return False
    parts = tensor_value(sizes, Path()).tolist()
    return len(parts) == 2 and parts[0] == parts[1]


def _convolution(node: Message, uses: _Uses) -> _Fused | None:
    """Return a convolution with the transpositions around it."""
    if node.op_type != _STORED_CONVOLUTION or not _is_plain(node, uses):
        return None
    before, after = uses.makers.get(node.input[0]), uses.only_reader(node.output[0], "Transpose")
    if before is None or after is None or before.op_type != "Transpose":
        return None
    is_alone = uses.only_reader(node.input[0], _STORED_CONVOLUTION) is not None
    if not is_alone or any(attributes_of(part).get("perm") != _ROWS_AND_COLUMNS for part in (before, after)):
        return None
    bias = [node.input[_BIAS]] if node.input[_BIAS] else []
    inputs = [before.input[0], node.input[_KERNEL], node.input[_STATE], *bias]
    has_silu = attributes_of(node).get("activation") == b"silu"
    outputs = [after.output[0], node.output[1]]
    return _Fused((before, node, after), CONVOLUTION, inputs, outputs, {"silu": int(has_silu)})


def _is_plain(node: Message, uses: _Uses) -> bool:
    """Return True if a convolution has a kernel that the library takes, and no attribute that it does not know."""
    found = attributes_of(node)
    if any(value not in _PLAIN.get(name, ()) for name, value in found.items()):
        return False
    kernel = uses.tensors.get(node.input[_KERNEL])
    return kernel is not None and len(kernel.dims) == 3 and kernel.dims[1] == 1 and 2 <= kernel.dims[2] <= _MOST_TAPS


def _norm(node: Message, _uses: _Uses) -> _Fused | None:
    """Return a norm of the last axis."""
    attributes, epsilon = attributes_of(node), _epsilon_of(node)
    is_plain = attributes.get("axis", -1) == -1 and attributes.get("stash_type", 1) == 1 and not any(node.output[1:])
    if node.op_type != _STORED_NORM or not is_plain or not epsilon:
        return None
    return _Fused((node,), NORM, list(node.input), list(node.output[:1]), epsilon)


def _skip_norm(node: Message, _uses: _Uses) -> _Fused | None:
    """Return the norm of a sum, which may be an output as well."""
    epsilon = _epsilon_of(node)
    if node.op_type != _STORED_SKIP_NORM or any(node.input[3:]) or any(node.output[1:3]) or not epsilon:
        return None
    x, skip, scale = node.input[:3]
    return _Fused((node,), SKIP_NORM, [x, scale, skip], [name for name in node.output if name], epsilon)


def _epsilon_of(node: Message) -> dict[str, float]:
    return {a.name: a.f for a in node.attribute if a.name == "epsilon"}
