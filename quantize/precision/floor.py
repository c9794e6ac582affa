"""The smallest file that a searched scheme can write, computed from the shapes of a checkpoint before any stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from appliance.errors import QuantizeError
from quantize.graph.codec import HEAD_WIDTHS, Bits, matrix_bytes
from quantize.sources.census import EMBEDDING, HEAD, decoder_shapes

_FLOAT_BYTES = 4
_MATRIX_BYTES = 2300  # of a matrix beyond its codes: nodes and the start on a page; SmolLM2-135M has 2,229


def check_reachable(
    config: Mapping[str, Any], widths: Mapping[str, Sequence[Bits]], scheme: str, max_mb: float
) -> None:
    """Refuse a limit that not even the narrowest width throughout keeps; `widths` are those of the searched schemes.

    Raises:
        QuantizeError: naming the smallest size that can be reached.
    """
    if smallest_bytes(config, widths[scheme], with_overhead=False) <= max_mb * 1e6:
        return
    sizes = {name: smallest_bytes(config, bits) / 1e6 for name, bits in widths.items()}
    narrower = [name for name, size in sizes.items() if size < min(sizes[scheme], max_mb)]
    instead = f", or take --scheme {narrower[0]}, which begins at {sizes[narrower[0]]:.1f} MB" if narrower else ""
    raise QuantizeError(
        f"--max-mb {max_mb:g} cannot be reached: the smallest file in {scheme} has about {sizes[scheme]:.1f} MB; allow "
        f"that much{instead}"
    )


def smallest_bytes(config: Mapping[str, Any], widths: Sequence[Bits], *, with_overhead: bool = True) -> int:
    """Return the bytes of model.onnx and its data with each matrix in its narrowest width.

    Without the overhead it is a lower bound, with it an estimate.
    """
    head = min(HEAD_WIDTHS) if set(HEAD_WIDTHS) <= set(widths) else 8
    special = {HEAD: head, EMBEDDING: head if config["tie_word_embeddings"] else 8}
    total = 0
    for name, shape in decoder_shapes(config).items():
        if len(shape) != 2:  # norms, biases, convolutions
            total += _FLOAT_BYTES * math.prod(shape)
            continue
        total += matrix_bytes(shape[0], shape[1], special.get(name, min(widths)))
        total += _MATRIX_BYTES if with_overhead else 0
    return total
