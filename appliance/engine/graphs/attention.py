"""The memory of attention over several tokens of a slot, and the chunk size that it allows.

Without tiles, onnxruntime keeps a score for each head, each token of the chunk and each token of the slot; that was
measured to be twice as fast as with tiles.
"""

from __future__ import annotations

import numpy as np

from appliance.engine.graphs.onnx_proto import parse

ATTENTION_BYTES = 32 << 20  # the scores of one chunk
_SHORTEST_CHUNK = 16  # tokens


def longest_chunk(model: bytes, capacity: int) -> int:
    """Return the tokens of a chunk whose scores take `ATTENTION_BYTES` in a full slot; `model` is a decoder graph."""
    num_heads = [a.i for node in parse(model).graph.node for a in node.attribute if a.name == "num_heads"]
    of_a_token = max(num_heads, default=1) * capacity * np.dtype(np.float32).itemsize
    return max(_SHORTEST_CHUNK, ATTENTION_BYTES // of_a_token)
