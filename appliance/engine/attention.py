"""What attention over several tokens of a row takes of memory, and how many of them it therefore takes at once.

Without onnxruntime's tiles it keeps a score for each head, each token of the chunk and each token of the row; twice as
fast as with them where it was measured.
"""

from __future__ import annotations

import numpy as np

from appliance.engine.onnx_proto import parse

ATTENTION_BYTES = 32 << 20  # the scores of one chunk
_SHORTEST_CHUNK = 16  # tokens


def longest_chunk(model: bytes, capacity: int) -> int:
    """Tokens of a chunk whose scores are within `ATTENTION_BYTES` in a full row; `model` is a decoder graph."""
    num_heads = [a.i for node in parse(model).graph.node for a in node.attribute if a.name == "num_heads"]
    of_a_token = max(num_heads, default=1) * capacity * np.dtype(np.float32).itemsize
    return max(_SHORTEST_CHUNK, ATTENTION_BYTES // of_a_token)
