"""Keys and values in the memory of another device than the processor, in float16.

The same rows as in kv_cache.py. onnxruntime copies them: a graph of nothing but Identity operators, whose inputs and
outputs are rows. Whole rows, since a device moves one in less time than a step takes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnxruntime as ort

from appliance.bundle import DecoderSpec
from appliance.engine.kv_cache import BoundRows
from appliance.engine.onnx_proto import FLOAT16, add_node, add_value, parse
from appliance.engine.provider import device_of, providers_of, session_options

_DTYPE = np.dtype(np.float16)
_IR_VERSION, _OPSET = 10, 18


class DeviceKVCache:
    """Two arrays (rows, kv_heads, capacity, head_dim) a layer; owned by the engine thread."""

    def __init__(self, spec: DecoderSpec, *, num_rows: int, capacity: int, provider: str) -> None:
        """One row more than asked for is reserved, through which two rows change places."""
        self.num_rows = num_rows
        self.capacity = capacity
        self._device = device_of(provider)
        self._spare = num_rows
        self._shape = (spec.num_kv_heads, capacity, spec.head_dim)
        shape = (num_rows + 1, *self._shape)
        self._arrays = {
            f"{layer}.{part}": ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, _DTYPE), self._device, 0)
            for layer in range(spec.num_layers)
            for part in ("key", "value")
        }
        self._copying = ort.InferenceSession(
            _copying_graph(list(self._arrays)), session_options(1), providers=providers_of(provider)
        )

    def bound_rows(self, first_row: int, num_rows: int) -> Iterator[BoundRows]:
        """What a step over these rows reads and writes."""
        row_bytes = int(np.prod(self._shape)) * _DTYPE.itemsize
        for name, array in self._arrays.items():
            address = array.data_ptr() + first_row * row_bytes
            yield BoundRows(name, self._device, _DTYPE, (num_rows, *self._shape), address)

    def copy_row(self, source: int, target: int, num_tokens: int) -> None:
        """Copy one row over another, all of it."""
        self._copy(source, target)

    def swap_rows(self, a: int, b: int, num_tokens: int) -> None:
        """Exchange two rows, all of them."""
        for source, target in ((a, self._spare), (b, a), (self._spare, b)):
            self._copy(source, target)

    def _copy(self, source: int, target: int) -> None:
        binding = self._copying.io_binding()
        for rows in self.bound_rows(source, 1):
            binding.bind_input(_from(rows.name), rows.device, 0, rows.dtype, rows.shape, rows.address)
        for rows in self.bound_rows(target, 1):
            binding.bind_output(_to(rows.name), rows.device, 0, rows.dtype, rows.shape, rows.address)
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
