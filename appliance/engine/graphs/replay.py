"""The recurrent layers alone, without weights: a state advances by those tokens of a draft that were accepted.

A verify run leaves the state of its slot as it was: the operators of recurrent layers get the bits of single steps for
each of its tokens, but write the state behind all of them elsewhere, and what they read, a few vectors for each token,
is an output of the run. The *replay* graph computes these operators again, from the first so many of these vectors.
"""

from __future__ import annotations

import numpy as np

from appliance.engine.graphs.fused import CONVOLUTION
from appliance.engine.graphs.onnx_proto import (
    FLOAT,
    INT64,
    Message,
    add_constant,
    add_node,
    add_value,
    empty_like,
    parse,
)
from appliance.engine.graphs.slot_arrays import STATES
from appliance.errors import ModelError

NUM_TOKENS = "num_tokens"  # the graph's input, (1,) int64
_TOKEN_AXIS = {"CausalConvWithState": 2, CONVOLUTION: 1, "LinearAttention": 1}


def show_what_states_read(graph: Message) -> None:
    """Make the vectors that the operators of recurrent layers read outputs of a graph.

    Raises:
        ModelError: another operator has a state, or its tokens are not where they are looked for.
    """
    known = {value.name for value in graph.output}
    for node in _recurrent(graph):
        for name in _read_by(node, graph):
            if name not in known:
                known.add(name)
                add_value(graph.output, name, FLOAT)


def replay_graph(verify: bytes) -> bytes:
    """Return the graph that advances states by the first tokens of a run of the verify graph.

    Its inputs are `num_tokens`, the states, and those outputs of the verify graph that neither are logits nor belong
    to a slot; its outputs are the states.

    Raises:
        ModelError: as `show_what_states_read`.
    """
    parsed = parse(verify)
    model = empty_like(parsed)
    graph = model.graph
    nodes = _recurrent(parsed.graph)
    add_constant(graph, "replay.begin", np.zeros(1, np.int64))
    for axis in set(_TOKEN_AXIS.values()):
        add_constant(graph, f"replay.axis.{axis}", np.array([axis], np.int64))
    add_value(graph.input, NUM_TOKENS, INT64)
    needed = {name for node in nodes for name in [*node.input, *node.output]}
    graph.input.extend(value for value in parsed.graph.input if value.name in needed)
    graph.initializer.extend(tensor for tensor in parsed.graph.initializer if tensor.name in needed)
    cut: set[str] = set()
    for node in nodes:
        axis = _TOKEN_AXIS[node.op_type]
        read = _read_by(node, parsed.graph)
        for name in read:
            part = f"{name}/first.{axis}"
            if part not in cut:
                cut.add(part)
                add_node(graph, "Slice", [name, "replay.begin", NUM_TOKENS, f"replay.axis.{axis}"], [part])
        graph.node.add().CopyFrom(node)
        inputs = [f"{name}/first.{axis}" if name in read else name for name in node.input]
        del graph.node[-1].input[:]
        graph.node[-1].input.extend(inputs)
    for name in dict.fromkeys(name for node in nodes for name in _read_by(node, parsed.graph)):
        add_value(graph.input, name, FLOAT)
    graph.output.extend(value for value in parsed.graph.output if value.name in needed and _is_state(value.name))
    return bytes(model.SerializeToString())


def vectors_of(outputs: list[str]) -> list[str]:
    """Return those outputs of a verify graph that the replay graph reads."""
    return [name for name in outputs if name != "logits" and not name.startswith("present")]


def _recurrent(graph: Message) -> list[Message]:
    """Return the operators that have a state."""
    nodes = [node for node in graph.node if any(name.startswith(STATES) for name in node.input)]
    for node in nodes:
        is_known = node.op_type in _TOKEN_AXIS
        if not is_known or any(a.name == "channels_last" and a.i for a in node.attribute):
            raise ModelError(f"the state of {node.name} ({node.op_type}) cannot be taken up again after a draft")
    return nodes


def _read_by(node: Message, graph: Message) -> list[str]:
    """Return the inputs of an operator that its tokens bring."""
    fixed = {value.name for value in [*graph.initializer, *graph.input]}
    return [name for name in node.input if name and name not in fixed]


def _is_state(present: str) -> bool:
    return present.replace("present", "past", 1).startswith(STATES)
