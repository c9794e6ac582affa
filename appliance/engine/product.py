"""A product of two matrices by onnxruntime, held against the right result: `python -m appliance.engine.product [NAME]`.

It tells a system whose processor, libraries or kernel do not fit the runtime from one that works, without any model.
"""

from __future__ import annotations

import base64
import sys

import numpy as np
import onnxruntime as ort

# One MatMul of a and b into c, float32, any shapes; opset 13.
_GRAPH = (
    "CAg6SQoRCgFhCgFiEgFjIgZNYXRNdWwSAWdaDwoBYRIKCggIARIECgAKAFoPCgFiEgoKCAgBEgQKAAoAYg8KAWMSCgoICAESBAoACgBCBAoAEA0="
)
_SIZE = 96


def product_is_right(provider: str = "CPUExecutionProvider") -> bool:
    """Whether float32 products of small integers, which are exact, come out right on this provider and no other."""
    if provider not in ort.get_available_providers():
        return False
    random = np.random.default_rng(7)
    a, b = (random.integers(-9, 10, (_SIZE, _SIZE)) for _ in range(2))
    session = ort.InferenceSession(base64.b64decode(_GRAPH), providers=[provider])
    if session.get_providers()[0] != provider:
        return False
    [c] = session.run(None, {"a": a.astype(np.float32), "b": b.astype(np.float32)})
    return bool(np.array_equal(c, (a @ b).astype(np.float32)))


if __name__ == "__main__":
    sys.exit(0 if product_is_right(*sys.argv[1:2]) else 1)
