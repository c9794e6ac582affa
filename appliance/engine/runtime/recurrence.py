"""The operators of recurrent layers, checked on this processor before a model relies on how they write their state.

A slot's state is bound as input and output at once, which spares a copy of it at every token. onnxruntime 1.32 does not
promise that its kernels read before they write; so both are compared with memory of their own, once in a process.
Nor does it promise that several tokens at once give the bits of single steps, on which drafts rely.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.engine.graphs.onnx_proto import FLOAT, MICROSOFT, add_constant, add_node, add_value, parse
from appliance.engine.runtime.provider import CPU, session_options

_IR_VERSION, _OPSET = 10, 18
_HEADS, _WIDTH, _COLUMNS = 4, 32, 3
_CHANNELS = _HEADS * _WIDTH
_MOST_TOKENS = 6  # of a draft
_SHAPES = ((1, 1), (1, 2), (1, 40), (3, 1))  # rows and tokens: steps, chunks, batches
_STATES = {"present_conv": "past_conv", "present_recurrent": "past_recurrent"}

Values = dict[str, NDArray[np.float32]]


def _in_place(session: ort.InferenceSession, feeds: Values, expected: Values) -> Values:
    """Run with each state as input and output; return the outputs."""
    values = {name: np.array(value) for name, value in feeds.items()}
    found = {
        name: values[_STATES[name]] if name in _STATES else np.empty_like(value) for name, value in expected.items()
    }
    binding = session.io_binding()
    for name, value in values.items():
        binding.bind_input(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
    for name, value in found.items():
        binding.bind_output(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
    session.run_with_iobinding(binding)
    return found


@cache
def in_place_fault(run: Callable[[ort.InferenceSession, Values, Values], Values] = _in_place) -> str | None:
    """Return the output that is wrong where a state is written over the one that is read; None if all are right."""
    session = ort.InferenceSession(_graph(), session_options(2), providers=[CPU])
    names: list[str] = [output.name for output in session.get_outputs()]
    for num_rows, num_tokens in _SHAPES:
        feeds = _feeds(num_rows, num_tokens)
        expected = dict(zip(names, session.run(names, feeds), strict=True))
        found = run(session, feeds, expected)
        for name in names:
            if not np.array_equal(found[name], expected[name]):
                return name
    return None


@cache
def multi_token_fault(run: Callable[[ort.InferenceSession, Values, Values], Values] = _in_place) -> str | None:
    """Return the output of several tokens at once that differs from one by one; None if all have the same bits."""
    session = ort.InferenceSession(_graph(), session_options(2), providers=[CPU])
    names: list[str] = [output.name for output in session.get_outputs()]
    for num_tokens in range(2, _MOST_TOKENS + 1):
        feeds = _feeds(1, num_tokens)
        found = run(session, feeds, dict(zip(names, session.run(names, feeds), strict=True)))
        states = {past: feeds[past] for past in _STATES.values()}
        for i in range(num_tokens):
            step = {name: value if name in states else _token(name, value, i) for name, value in feeds.items()}
            expected = dict(zip(names, session.run(names, {**step, **states}), strict=True))
            states = {past: expected[present] for present, past in _STATES.items()}
            for name in names:
                if name not in _STATES and not np.array_equal(_token(name, found[name], i), expected[name]):
                    return name
        for present, past in _STATES.items():
            if not np.array_equal(found[present], states[past]):
                return present
    return None


def _token(name: str, values: NDArray[np.float32], i: int) -> NDArray[np.float32]:
    """Return one token of an input or output."""
    part = values[:, :, i : i + 1] if name in ("columns", "mixed") else values[:, i : i + 1]
    return np.ascontiguousarray(part)


def _feeds(num_rows: int, num_tokens: int) -> Values:
    random = np.random.default_rng(5)
    shapes = {
        "columns": (num_rows, _CHANNELS, num_tokens),
        "query": (num_rows, num_tokens, _CHANNELS),
        "key": (num_rows, num_tokens, _CHANNELS),
        "value": (num_rows, num_tokens, _CHANNELS),
        "decay": (num_rows, num_tokens, _HEADS),
        "rate": (num_rows, num_tokens, _HEADS),
        "past_conv": (num_rows, _CHANNELS, _COLUMNS),
        "past_recurrent": (num_rows, _HEADS, _WIDTH, _WIDTH),
    }
    values = {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    return {**values, "key": values["key"] * np.float32(0.1), "decay": -np.abs(values["decay"])}


def _graph() -> bytes:
    model = parse(b"")
    model.ir_version = _IR_VERSION
    model.opset_import.add(domain="", version=_OPSET)
    model.opset_import.add(domain=MICROSOFT, version=1)
    graph = model.graph
    graph.name = "recurrence"
    for name in _feeds(1, 1):
        add_value(graph.input, name, FLOAT)
    for name in ("mixed", "present_conv", "attended", "present_recurrent"):
        add_value(graph.output, name, FLOAT)
    kernel = np.random.default_rng(6).normal(0, 1, (_CHANNELS, 1, _COLUMNS + 1)).astype(np.float32)
    add_constant(graph, "kernel", kernel)
    convolution = ["columns", "kernel", "", "past_conv"]
    add_node(graph, "CausalConvWithState", convolution, ["mixed", "present_conv"], domain=MICROSOFT)
    attention = ["query", "key", "value", "past_recurrent", "decay", "rate"]
    heads = {"q_num_heads": _HEADS, "kv_num_heads": _HEADS}
    add_node(graph, "LinearAttention", attention, ["attended", "present_recurrent"], heads, domain=MICROSOFT)
    return bytes(model.SerializeToString())
