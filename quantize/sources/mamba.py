"""Mamba-2 in a configuration: its tensors, and numbers that two families share."""

from __future__ import annotations

INFINITY = {"__float__": "Infinity"}  # as transformers 5 writes it, since JSON has none


def mamba_tensors(
    hidden: int, heads: int, head_dim: int, shared: int, kernel: int, *, has_conv_bias: bool, has_bias: bool
) -> dict[str, tuple[int, ...]]:
    """Return the tensors of Mamba-2 by shape; `shared`: the channels of B and C, which several heads share."""
    size = heads * head_dim
    channels = size + shared
    shapes: dict[str, tuple[int, ...]] = {
        "in_proj.weight": (size + channels + heads, hidden),
        "out_proj.weight": (hidden, size),
        "conv1d.weight": (channels, 1, kernel),
        "norm.weight": (size,),
        **dict.fromkeys(("A_log", "D", "dt_bias"), (heads,)),
    }
    if has_conv_bias:
        shapes["conv1d.bias"] = (channels,)
    if has_bias:
        shapes |= {"in_proj.bias": (size + channels + heads,), "out_proj.bias": (hidden,)}
    return shapes
