"""Keys and values in the memory of a GPU, in float16.

The same slots as in kv_cache.py. onnxruntime copies them, through a graph of Identity operators whose inputs and
outputs are slots. Whole slots are copied: a GPU moves one in less time than a step takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnxruntime as ort

from appliance.engine.graphs.onnx_proto import FLOAT16, add_node, add_value, parse
from appliance.engine.graphs.slot_arrays import SlotLayout
from appliance.engine.runtime.kv_cache import BoundSlots
from appliance.engine.runtime.provider import device_of, providers_of, session_options
from appliance.errors import ModelError

_DTYPE = np.dtype(np.float16)
_IR_VERSION, _OPSET = 10, 18


class DeviceKVCache:
    """Arrays (slots, kv_heads, capacity, head_dim), two for each layer that has any; owned by the engine thread."""

    def __init__(self, layout: SlotLayout, *, num_slots: int, capacity: int, provider: str) -> None:
        """Reserve one more slot than asked for, through which two slots are exchanged.

        Raises:
            ModelError: the model has recurrent states, whose operators a GPU's provider lacks.
        """
        if layout.states:
            raise ModelError(f"a GPU keeps no recurrent state such as {layout.states[0].past}; use engine.device = cpu")
        self.num_slots = num_slots
        self.capacity = capacity
        self._device = device_of(provider)
        self._spare = num_slots
        self._shapes = {a.past: (a.shape[0], capacity, a.shape[1]) for a in layout.kv}
        self._presents = {a.past: a.present for a in layout.kv}
        self._arrays = {
            name: ort.OrtValue.ortvalue_from_numpy(np.zeros((num_slots + 1, *shape), _DTYPE), self._device, 0)
            for name, shape in self._shapes.items()
        }
        self._copying = ort.InferenceSession(
            _copying_graph(list(self._arrays)), session_options(1), providers=providers_of(provider)
        )

    def bound_slots(self, first_slot: int, num_slots: int) -> Iterator[BoundSlots]:
        """Yield the memory that a step over these slots reads and writes."""
        for name, array in self._arrays.items():
            shape = self._shapes[name]
            address = array.data_ptr() + first_slot * math.prod(shape) * _DTYPE.itemsize
            yield BoundSlots(name, self._presents[name], self._device, _DTYPE, (num_slots, *shape), address)

    def copy_slot(self, source: int, target: int, num_tokens: int) -> None:
        """Copy one slot over another, all of it."""
        self._copy(source, target)

    def swap_slots(self, a: int, b: int, num_tokens: int) -> None:
        """Exchange two slots, all of them."""
        for source, target in ((a, self._spare), (b, a), (self._spare, b)):
            self._copy(source, target)

    def _copy(self, source: int, target: int) -> None:
        binding = self._copying.io_binding()
        for slots in self.bound_slots(source, 1):
            binding.bind_input(_from(slots.past), slots.device, 0, slots.dtype, slots.shape, slots.address)
        for slots in self.bound_slots(target, 1):
            binding.bind_output(_to(slots.past), slots.device, 0, slots.dtype, slots.shape, slots.address)
        self._copying.run_with_iobinding(binding)


def _copying_graph(names: list[str]) -> bytes:
    model = parse(b"")
    model.ir_version = _IR_VERSION
    model.opset_import.add(domain="", version=_OPSET)
    model.graph.name = "copy"
    for name in names:
        add_value(model.graph.input, _from(name), FLOAT16)
        add_value(model.graph.output, _to(name), FLOAT16)
        add_node(model.graph, "Identity", [_from(name)], [_to(name)])
    return bytes(model.SerializeToString())


def _from(name: str) -> str:
    return f"from.{name}"


def _to(name: str) -> str:
    return f"to.{name}"
