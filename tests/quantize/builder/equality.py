"""Two graphs compared: the same nodes in the same places, the same constants to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from quantize.graph.edit import constant_of
from quantize.precision.matrices import matrices_of

_COMMUTING = frozenset({"Add", "Mul"})

Form = tuple[Any, ...]


def differences(left: ir.Model, right: ir.Model) -> list[str]:
    """Return the first differences in words; none if both graphs are the same but for the names of inner values."""
    signatures = [[(v.name, v.dtype, v.shape) for v in (*m.graph.inputs, *m.graph.outputs)] for m in (left, right)]
    if signatures[0] != signatures[1]:
        return [f"inputs and outputs: {signatures[0]} and {signatures[1]}"]
    names = [[matrix.name for matrix in matrices_of(model.graph)] for model in (left, right)]
    if names[0] != names[1]:
        return [f"products: {names[0]} and {names[1]}"]
    numbers = _Numbers()
    forms = [numbers.of_graph(model.graph) for model in (left, right)]
    found = [f"{a} and {b}" for a, b in zip(*(sorted(form, key=repr) for form in forms), strict=False) if a != b][:3]
    return found if len(forms[0]) == len(forms[1]) else [f"{len(forms[0])} and {len(forms[1])} nodes", *found]


class _Numbers:
    """A number for each distinct value: equal inputs, operator and attributes give equal numbers in both graphs."""

    def __init__(self) -> None:
        self._seen: dict[Form, int] = {}

    def of_graph(self, graph: ir.Graph) -> list[Form]:
        """Return the form of every node and of the outputs; constants count by their bits."""
        known: dict[ir.Value, int] = {value: self._number(("input", value.name)) for value in graph.inputs}
        forms: list[Form] = []
        for node in graph:
            if node.op_type == "Constant":
                continue
            inputs = [None if value is None else self._of_value(value, known) for value in node.inputs]
            if node.op_type in _COMMUTING:
                inputs.sort(key=str)
            attributes = sorted((name, _plain(attribute)) for name, attribute in node.attributes.items())
            form = (node.domain, node.op_type, tuple(inputs), tuple(attributes), len(node.outputs))
            forms.append(form)
            known |= {value: self._number((*form, at)) for at, value in enumerate(node.outputs)}
        return [*forms, *(("output", value.name, known[value]) for value in graph.outputs)]

    def _of_value(self, value: ir.Value, known: dict[ir.Value, int]) -> int:
        array = constant_of(value)
        if array is None:
            return known[value]
        return self._number(("constant", str(array.dtype), array.shape, np.ascontiguousarray(array).tobytes()))

    def _number(self, form: Form) -> int:
        return self._seen.setdefault(form, len(self._seen))


def _plain(attribute: ir.Attr) -> object:
    value = attribute.value
    return np.float32(value).tobytes() if isinstance(value, float) else value
