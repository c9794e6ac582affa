"""The kinds of models that can be built, each with its list of stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from appliance.errors import QuantizeError
from quantize.kinds.decoder import DECODER
from quantize.kinds.encoder import ENCODER
from quantize.kinds.kind import Kind
from quantize.kinds.reranker import RERANKER
from quantize.recipe import Recipe
from quantize.sources.checkpoint import is_reranker, is_text_model
from quantize.sources.modules import scores_by_logits

KINDS: Mapping[str, Kind] = {"decoder": DECODER, "encoder": ENCODER, "reranker": RERANKER}


def kind_of(source: Path, recipe: Recipe) -> Kind:
    """Return the kind of model that a checkpoint or GGUF file is built to.

    Raises:
        QuantizeError: its architecture is unknown, or a field of the recipe does not go with it.
    """
    kind = _kind_of(source, recipe)
    if recipe.matryoshka_dimensions and kind is not ENCODER:
        raise QuantizeError("matryoshka_dimensions in the recipe are for embedding models, and this is none")
    return kind


def _kind_of(source: Path, recipe: Recipe) -> Kind:
    is_gguf = source.suffix == ".gguf"
    if recipe.scoring is not None:
        if is_gguf or is_text_model(source):
            raise QuantizeError("[scoring] in the recipe is for the folder of a model that writes text")
        return RERANKER
    if is_gguf:
        return DECODER
    if scores_by_logits(source):
        raise QuantizeError(
            "modules.json makes a score of the model's logits (LogitScore): a reranker, whose prompt belongs into the "
            "recipe as [scoring]; the recipe qwen3-reranker-0.6b shows how"
        )
    if is_reranker(source):
        return RERANKER
    return ENCODER if is_text_model(source) else DECODER
