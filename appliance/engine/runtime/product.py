"""Products of two matrices by onnxruntime, checked against the right result, without any model.

Run as `python -m appliance.engine.runtime.product [PROVIDER]`: it fails on a system whose processor, libraries or
kernel do not fit the runtime.
"""

from __future__ import annotations

import functools
import sys

import numpy as np
import onnxruntime as ort

from appliance.engine.graphs.onnx_proto import FLOAT, MICROSOFT, Message, add_constant, add_node, add_value, parse
from appliance.engine.graphs.prompt import int8_product_graph
from appliance.engine.runtime.provider import CPU, session_options

_IR_VERSION, _OPSET = 8, 13
_SIZE = 96
_LONGEST_SUM, _LARGEST_CODE, _LARGEST_ROW = 64, 127, 255
_NUM_ROWS, _WIDTH, _NUM_COLUMNS, _BLOCK = 5, 256, 64, 32


def product_is_right(provider: str = CPU) -> bool:
    """Return True if a provider, and no other, gives the exact float32 product of small integers."""
    return product_fault(provider) is None


def product_fault(provider: str = CPU) -> str | None:
    """Return the reason why a provider's product of small integers does not count; None if it is exact."""
    if provider not in ort.get_available_providers():
        return f"this onnxruntime has no {provider}"
    random = np.random.default_rng(7)
    a, b = (random.integers(-9, 10, (_SIZE, _SIZE)) for _ in range(2))
    session = ort.InferenceSession(_product_graph(), providers=[provider])
    used = session.get_providers()[0]
    if used != provider:
        return f"onnxruntime fell back to {used} without an error"
    [c] = session.run(None, {"a": a.astype(np.float32), "b": b.astype(np.float32)})
    return None if np.array_equal(c, (a @ b).astype(np.float32)) else "the product of two matrices is wrong"


@functools.cache
def int8_products_are_exact() -> bool:
    """Return True if this processor adds products of uint8 and int8 without saturation; without VNNI, x86 does not."""
    codes = np.full((_LONGEST_SUM, 2), _LARGEST_CODE, np.int8) * np.array([1, -1], np.int8)
    session = ort.InferenceSession(int8_product_graph(codes), session_options(1), providers=[CPU])
    rows = np.full((3, _LONGEST_SUM), _LARGEST_ROW, np.uint8)
    [found] = session.run(None, {session.get_inputs()[0].name: rows})
    return bool(np.array_equal(found, rows.astype(np.float32) @ codes.astype(np.float32)))


@functools.cache
def int4_rows_are_equal() -> bool:
    """Return True if a row times stored int4 weights has the same bits alone and beside other rows.

    On x86 with AVX2 and no VNNI it does not (onnxruntime 1.32).
    """
    random = np.random.default_rng(5)
    codes = random.integers(0, 256, (_NUM_COLUMNS, _WIDTH // _BLOCK, _BLOCK // 2), np.uint8)
    model = _empty("a")
    model.opset_import.add(domain=MICROSOFT, version=1)
    add_constant(model.graph, "codes", codes)
    add_constant(model.graph, "scales", random.random(codes.shape[:2], np.float32))
    sizes = {"K": _WIDTH, "N": _NUM_COLUMNS, "bits": 4, "block_size": _BLOCK, "accuracy_level": 4}
    add_node(model.graph, "MatMulNBits", ["a", "codes", "scales"], ["c"], sizes, domain=MICROSOFT)
    session = ort.InferenceSession(model.SerializeToString(), session_options(1), providers=[CPU])
    rows = random.normal(size=(_NUM_ROWS, _WIDTH)).astype(np.float32)
    [together] = session.run(None, {"a": rows})
    return all(
        np.array_equal(session.run(None, {"a": row[None]})[0][0], at) for row, at in zip(rows, together, strict=True)
    )


def _product_graph() -> bytes:
    model = _empty("a", "b")
    add_node(model.graph, "MatMul", ["a", "b"], ["c"])
    return bytes(model.SerializeToString())


def _empty(*inputs: str) -> Message:
    """Return a model of float32 inputs and the float32 output `c`, without a node."""
    model = parse(b"")
    model.ir_version = _IR_VERSION
    model.opset_import.add(domain="", version=_OPSET)
    model.graph.name = "product"
    for name in inputs:
        add_value(model.graph.input, name, FLOAT)
    add_value(model.graph.output, "c", FLOAT)
    return model


if __name__ == "__main__":
    sys.exit(product_fault(*sys.argv[1:2]))
