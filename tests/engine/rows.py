"""The bits of a row where onnxruntime multiplies int4 weights: not every processor keeps them beside other rows.

On x86 with AVX2 and no VNNI they differ between one row and several (onnxruntime 1.32). Lantern's own kernels keep them
everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_K, _N, _BLOCK = 256, 64, 32
NOT_EQUAL = "the stock products of int4 weights depend on the number of rows on this processor"


@functools.cache
def int4_rows_are_equal() -> bool:
    """Return True if each row of a product has the bits that it has alone."""
    random = np.random.default_rng(5)
    constants = {
        "codes": random.integers(0, 256, (_N, _K // _BLOCK, _BLOCK // 2), np.uint8),
        "scales": random.random((_N, _K // _BLOCK), np.float32),
    }
    sizes = {"K": _K, "N": _N, "bits": 4, "block_size": _BLOCK, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", ["x", *constants], ["y"], domain="com.microsoft", **sizes)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", _K])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", _N])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    rows = random.normal(size=(5, _K)).astype(np.float32)
    [together] = session.run(None, {"x": rows})
    alone = [session.run(None, {"x": row[None]})[0][0] for row in rows]
    return bool(np.array_equal(together, alone))


def assert_same_arrays(found: Mapping[str, NDArray[Any]] | None, wanted: Mapping[str, NDArray[Any]] | None) -> None:
    """Compare what steps of one row have left with what steps of several have: bits, where the processor keeps them."""
    assert found is not None
    assert wanted is not None
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        most = 0 if int4_rows_are_equal() else 1 if value.dtype == np.int8 else 1e-3
        assert np.abs(found[key].astype(np.float32) - value.astype(np.float32)).max() <= most, key
