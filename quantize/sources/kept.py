"""The memory of a conversation in the layers of a decoder: names, dimensions and bytes of the graph's inputs."""

from __future__ import annotations

import math

from quantize.sources.decoder_config import DecoderConfig

_FLOAT_BYTES = 4
_CAPACITY = "capacity"

Dims = list[int | str]


def kept_by(config: DecoderConfig, layer: int) -> list[tuple[str, Dims]]:
    """Return the inputs by which a layer gets what it keeps, with their dimensions.

    Beside keys and values (runtime/model_runner.py) it may keep the columns of a convolution, `past_conv.I`
    (B, channels, kernel - 1), and recurrent matrices, `past_recurrent.I` (B, heads, key_dim, value_dim). A layer that
    reads the keys and values of another one has none of these, and neither has one that is an MLP alone.
    """
    mixer, columns = config.design.mixers[layer], config.design.conv_kernel - 1
    delta, mamba = config.design.delta, config.design.mamba
    if mixer == "conv":
        return [(f"past_conv.{layer}", ["batch_size", config.hidden_size, columns])]
    if mixer == "delta":
        assert delta is not None
        matrices: Dims = ["batch_size", delta.value_heads, delta.key_dim, delta.value_dim]
        channels = 2 * delta.key_size + delta.value_size
        return [(f"past_conv.{layer}", ["batch_size", channels, columns]), (f"past_recurrent.{layer}", matrices)]
    if mixer == "mamba":
        assert mamba is not None
        matrices = ["batch_size", mamba.heads, mamba.state, mamba.head_dim]
        return [
            (f"past_conv.{layer}", ["batch_size", mamba.channels, columns]),
            (f"past_recurrent.{layer}", matrices),
        ]
    if not config.design.keeps_kv(layer):
        return []
    dims: Dims = ["batch_size", config.num_kv_heads, _CAPACITY, config.design.head_dims[layer]]
    return [(f"past_key_values.{layer}.{part}", list(dims)) for part in ("key", "value")]


def conversation_bytes(config: DecoderConfig, num_tokens: int) -> int:
    """Return the bytes of keys and values of so many tokens in float32, and of the states, which have one size."""
    sizes = {"batch_size": 1, _CAPACITY: num_tokens}
    kept = [dims for layer in range(config.num_layers) for _, dims in kept_by(config, layer)]
    counts = ([sizes[size] if isinstance(size, str) else size for size in dims] for dims in kept)
    return _FLOAT_BYTES * sum(map(math.prod, counts))
