"""The few operations with which graphs are read and built, on top of onnx-ir; a refusal names the node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.errors import QuantizeError

MICROSOFT = "com.microsoft"
LOGITS = "logits"
TRANSPARENT = frozenset({"Cast", "Identity"})
_CAP = frozenset({"Mul", "Tanh"})


def refuse(node: ir.Node | None, what: str) -> QuantizeError:
    """Return the error for an unknown structure, naming the node at which reading stopped."""
    if node is None:
        return QuantizeError(f"the graph is not of a known form: {what}")
    return QuantizeError(f"the graph is not of a known form at {node.name} ({node.op_type}): {what}")


def constant_of(value: ir.Value | None) -> NDArray[Any] | None:
    """Return the array of an initializer or Constant node; None if the value is computed."""
    if value is None:
        return None
    tensor = value.const_value
    if tensor is None:
        node = value.producer()
        if node is None or node.op_type != "Constant" or "value" not in node.attributes:
            return None
        tensor = node.attributes["value"].as_tensor()
    array: NDArray[Any] = tensor.numpy()
    return array


def scalar_of(node: ir.Node) -> float | None:
    """Return the one-element constant among a node's inputs."""
    for value in node.inputs:
        array = constant_of(value)
        if array is not None and array.size == 1:
            return float(array.reshape(-1)[0])
    return None


def computed_input(node: ir.Node) -> ir.Value:
    """Return the only input that is not a constant."""
    found = [value for value in node.inputs if constant_of(value) is None]
    if len(found) != 1:
        raise refuse(node, f"it has {len(found)} computed inputs instead of one")
    return found[0]


def source_of(value: ir.Value, *ops: str) -> ir.Node:
    """Return the node that computes a value, skipping casts and identities.

    Raises:
        QuantizeError: it is none of the wanted operators.
    """
    node = value.producer()
    while node is not None and node.op_type in TRANSPARENT:
        node = node.inputs[0].producer()
    if node is None:
        raise refuse(None, f"{value.name} is not computed; expected {' or '.join(ops) or 'a node'}")
    if ops and node.op_type not in ops:
        raise refuse(node, f"expected {' or '.join(ops)}")
    return node


def only_user(node: ir.Node) -> ir.Node:
    """Return the single node that reads this node's first output."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1:
        raise refuse(node, f"{len(uses)} nodes read its output; expected one")
    user: ir.Node = uses[0].node
    return user


def gives_logits(product: ir.Node) -> bool:
    """Return True for the head: its output is the logits, or nothing but a cap stands between both."""
    value = product.outputs[0]
    while value.name != LOGITS:
        uses = list(value.uses())
        if len(uses) != 1 or uses[0].node.op_type not in _CAP:
            return False
        value = uses[0].node.outputs[0]
    return True


@dataclass(slots=True)
class Editor:
    """A writer of constants and nodes into one graph; nodes go before a given one, or to the end."""

    graph: ir.Graph

    def constant(self, name: str, array: NDArray[Any] | np.generic) -> ir.Value:
        """Add an initializer, or return the one that has this name."""
        if name in self.graph.initializers:
            return self.graph.initializers[name]
        tensor = ir.tensor(np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array), name=name)
        value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype))
        self.graph.initializers[name] = value
        return value

    def nodes(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[str],
        *,
        name: str | None = None,
        attributes: Mapping[str, object] | None = None,
        domain: str = "",
        before: ir.Node | None = None,
    ) -> list[ir.Value]:
        """Insert a node; an output named "" is omitted."""
        node = ir.node(
            op, inputs, dict(attributes or {}), domain=domain, num_outputs=len(outputs), name=name or f"/{outputs[0]}"
        )
        for value, output in zip(node.outputs, outputs, strict=True):
            value.name = output
        if before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(before, node)
        return list(node.outputs)

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        output: str,
        *,
        domain: str = "",
        before: ir.Node | None = None,
        **attributes: object,
    ) -> ir.Value:
        """Insert a node with one output."""
        return self.nodes(op, inputs, [output], attributes=attributes, domain=domain, before=before)[0]


def new_input(name: str, dtype: ir.DataType, dims: Sequence[int | str]) -> ir.Value:
    """Make a graph input."""
    return ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(dtype))


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Make every reader of one value, the graph's outputs included, read another."""
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
