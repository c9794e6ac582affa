"""The README's table of models and boards: python -m tests.quantize.boards prints it.

From the published configurations and the arithmetic of `lantern-quantize inspect`; nothing is built.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from quantize.needs import Model
from quantize.sources.census import decoder_shapes
from quantize.sources.decoder_config import decoder_config
from quantize.sources.decoder_keys import read_decoder_keys
from quantize.sources.inspection import REST_OF_BOARD, bundle_bytes_of
from quantize.sources.kept import conversation_bytes
from tests.quantize.sources.published import DECODERS, Config

HEAD = "| model | weights, billions | int4, MB | a conversation of 2,048 tokens, MB | of 8,192 | board |"
_NAMES = (
    "SmolLM2",
    "Gemma 3 270M",
    "Qwen2.5 0.5B",
    "Qwen3 0.6B",
    "Qwen3.5 0.8B",
    "LFM2 1.2B",
    "Llama 3.2 1B",
    "Granite 4.0 h-1b",
    "LFM2 2.6B",
    "Gemma 4 E2B",
    "SmolLM3",
    "Phi-4-mini",
    "LFM2 8B A1B",
)
_BOARDS = (1, 2, 4, 8, 16)  # GB, as they are sold
_FIRMWARE = 0.06  # what of it the system does not see


@dataclass(frozen=True, slots=True)
class Fit:
    """The memory of a model: weights in int4, and keys, values and states of a conversation in float32."""

    num_parameters: int
    int4_bytes: int
    short_bytes: int
    long_bytes: int

    @property
    def board(self) -> int:
        """Return the memory of the smallest board that takes the short conversation, in GB as they are sold."""
        needed = self.int4_bytes + self.short_bytes + REST_OF_BOARD
        return next(size for size in _BOARDS if needed <= (size << 30) * (1 - _FIRMWARE))


def fit_of(raw: Config) -> Fit:
    """Return what a model of a published configuration takes."""
    keys = read_decoder_keys(raw).config
    shapes = list(decoder_shapes(keys).values())
    config = decoder_config(keys, {})
    return Fit(
        sum(map(math.prod, shapes)),
        bundle_bytes_of(Model(shapes, keys, is_decoder=True, is_rewritten=True))["int4"],
        conversation_bytes(config, 2048),
        conversation_bytes(config, 8192),
    )


def rows() -> Iterator[str]:
    """Yield the lines of the table."""
    yield HEAD
    yield "|---" * HEAD.count(" | ") + "|---|"
    for name in _NAMES:
        found = fit_of(DECODERS[name])
        sizes = (found.int4_bytes, found.short_bytes, found.long_bytes)
        megabytes = " | ".join(f"{size / 1e6:,.0f}" for size in sizes)
        yield f"| {name} | {found.num_parameters / 1e9:.2f} | {megabytes} | {found.board} GB |"


if __name__ == "__main__":
    sys.stdout.write("\n".join(rows()) + "\n")
