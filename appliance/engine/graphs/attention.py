"""The memory of attention over several tokens of a slot, and the chunk size that it allows; that over whole texts.

Without tiles, onnxruntime keeps a score for each head, each token of the chunk and each token of the slot; that was
measured to be twice as fast as with tiles.
"""

from __future__ import annotations

import numpy as np

from appliance.engine.graphs.onnx_proto import parse

ATTENTION_BYTES = 32 << 20  # the scores of one chunk
_SHORTEST_CHUNK = 16  # tokens
_NUM_MASKS = 2  # of a run of texts: the padding or the tokens behind, and a window


def text_scores_bytes(model: bytes, max_tokens: int, run_tokens: int) -> int:
    """Return the bytes of the scores of one run of a text model, whose graph is `model`.

    A run holds one text of up to `max_tokens`, or several that have `run_tokens` together with their padding. Beside
    the scores of each head there are masks of their size.
    """
    num_heads = _num_heads(model)
    if not num_heads:
        return 0
    scores = max_tokens * max(max_tokens, run_tokens)
    return (num_heads + _NUM_MASKS) * scores * np.dtype(np.float32).itemsize


def longest_chunk(model: bytes, capacity: int) -> int:
    """Return the tokens of a chunk whose scores take `ATTENTION_BYTES` in a full slot; `model` is a decoder graph."""
    of_a_token = (_num_heads(model) or 1) * capacity * np.dtype(np.float32).itemsize
    return max(_SHORTEST_CHUNK, ATTENTION_BYTES // of_a_token)


def _num_heads(model: bytes) -> int:
    """Return the most heads of any operator; 0 if none has heads."""
    return max((a.i for node in parse(model).graph.node for a in node.attribute if a.name == "num_heads"), default=0)
