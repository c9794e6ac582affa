"""The kinds of models that can be built, each with its list of stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from quantize.kinds.decoder import DECODER
from quantize.kinds.encoder import ENCODER
from quantize.kinds.kind import Kind
from quantize.kinds.reranker import RERANKER
from quantize.sources.checkpoint import ENCODERS, architecture_of, is_reranker

KINDS: Mapping[str, Kind] = {"decoder": DECODER, "encoder": ENCODER, "reranker": RERANKER}


def kind_of(checkpoint: Path) -> Kind:
    """Return the kind of model that a checkpoint holds.

    Raises:
        QuantizeError: its architecture is unknown.
    """
    if is_reranker(checkpoint):
        return RERANKER
    return ENCODER if architecture_of(checkpoint) in ENCODERS else DECODER
