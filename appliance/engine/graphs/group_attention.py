"""Attention by Lantern's library (docs/kernels.md) instead of onnxruntime's operator, and back.

Both have the same inputs, outputs and attributes. Ours computes each token by itself, with the same bits on every
processor. It has no keys and values in int8, and none that another layer lends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from appliance.engine.graphs.onnx_proto import LANTERN, MICROSOFT, Message, attributes_of
from appliance.engine.graphs.slot_arrays import layout_of_graph

STOCK: Final = "GroupQueryAttention"
OWN: Final = "GroupAttention"
OPERATORS: Final = (STOCK, OWN)

_PAST_KEY, _PAST_VALUE, _AFTER_TABLES = 3, 4, 9  # inputs
_NUM_OUTPUTS = 3
_LANES = 8  # kLanes of lane_count.h
# The attributes that it has, and the only values of the others: their defaults, as the optimizer writes them down.
_KNOWN: Final = {"num_heads", "kv_num_heads", "scale", "do_rotary", "local_window_size"}
_PLAIN: Final[Mapping[str, tuple[float | bytes, ...]]] = {
    "causal": (1,),
    "k_quant_type": (b"NONE",),
    "kv_cache_bit_width": (0,),
    "qk_output": (0,),
    "rotary_interleaved": (0,),
    "sliding_window_cache": (0,),
    "smooth_softmax": (-1, 0),
    "softcap": (0.0,),
    "v_quant_type": (b"NONE",),
}
_UNUSED: Final = {"qk_norm_epsilon"}  # of norms, which are further inputs


def take_own_attention(graph: Message) -> None:
    """Make those layers of attention ours whose form the library computes, in place.

    Raises:
        ModelError: a slot of the graph has an array of unknown form.
    """
    sizes = {array.past: array for array in layout_of_graph(graph).kv}
    for node in graph.node:
        if node.op_type != STOCK or not _is_plain(node):
            continue
        arrays = [sizes.get(node.input[at]) for at in (_PAST_KEY, _PAST_VALUE)]
        if all(array is not None and array.dtype == "float32" and array.shape[1] % _LANES == 0 for array in arrays):
            node.op_type, node.domain = OWN, LANTERN


def take_stock_attention(graph: Message) -> None:
    """Make our layers of attention onnxruntime's again, in place."""
    for node in graph.node:
        if node.op_type == OWN:
            node.op_type, node.domain = STOCK, MICROSOFT


def _is_plain(node: Message) -> bool:
    """Return True for attention without further inputs, and with no attribute that ours has not."""
    attributes = attributes_of(node)
    others = {name: value for name, value in attributes.items() if name not in _KNOWN | _UNUSED}
    return (
        "scale" in attributes
        and not any(node.input[_AFTER_TABLES:])
        and not any(node.output[_NUM_OUTPUTS:])
        and all(value in _PLAIN.get(name, ()) for name, value in others.items())
    )
