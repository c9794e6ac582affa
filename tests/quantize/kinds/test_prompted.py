"""A causal model that scores documents by the word it would write: as torch scores them, alone and in a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.bundle import RerankerSpec
from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.texts.embedder import Reranker, TokenPair
from appliance.errors import QuantizeError
from appliance.home import Home
from quantize.build import build_to_folder
from quantize.builder.weights import checkpoint_weights
from quantize.evaluation.reranker import encoded_pairs
from quantize.kinds import kind_of
from quantize.kinds.encoder_graph.scores import build_float_scores
from quantize.kinds.prompted import answers_of
from quantize.kinds.reranker import RERANKER
from quantize.progress import StageProgress
from quantize.quiet import quiet
from quantize.recipe import Recipe, ScoringPart
from quantize.sources.decoder_config import read_decoder_config
from tests.quantize.tiny import FORCED, write_body, write_decoder, write_encoder, write_modules

pytestmark = pytest.mark.slow

_SCORING = {
    "yes": "o",
    "no": "e",
    "prompt": {
        "before": "<|im_start|>Judge.\n",
        "text": "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}",
        "after": "<|im_end|>\n",
        "instruction": "Find what answers.",
    },
}
_DOCUMENTS = ["The fox jumps.", "the lazy dog " * 9, "x", "and then it sleeps " * 30]


def test_a_causal_model_becomes_a_reranker_that_scores_as_torch_does(
    home: Home, tmp_path: Path, progress: StageProgress
) -> None:
    source = write_decoder(tmp_path / "published", "qwen3", tie_word_embeddings=True)
    recipe = Recipe.create(name="tiny-scorer", source={"uri": str(source)}, context_length=160, scoring=_SCORING)
    bundle = build_to_folder(recipe, home, tmp_path / "out", progress, FORCED)
    spec, evaluation = bundle.manifest.model, bundle.manifest.evaluation
    assert isinstance(spec, RerankerSpec)
    assert (spec.architecture, spec.max_tokens) == ("qwen3", 160)
    assert evaluation.metrics["score_correlation"] > 0.99
    assert evaluation.metrics["batch_difference"] < 1e-4
    assert evaluation.witness is not None
    assert (evaluation.witness.by, evaluation.witness.read) == ("transformers", "source")
    assert (evaluation.witness.difference or 0) <= 1e-4

    pairs = encoded_pairs(bundle.folder, [("the fox", text) for text in _DOCUMENTS], spec)
    expected = torch_scores(source, pairs)
    quantized = Reranker(ModelFile(bundle.path(MODEL_NAME)), num_threads=1)
    assert np.corrcoef(quantized.score(pairs), expected)[0, 1] > 0.99
    (tmp_path / "float").mkdir()
    floats = floats_of(source, tmp_path / "float", pairs)
    assert np.abs(floats - expected).max() <= 1e-4 * expected.std()


def test_scoring_goes_with_a_model_that_writes_and_with_no_other(tmp_path: Path) -> None:
    recipe = Recipe.create(name="x", source={"uri": "x"}, scoring=_SCORING)
    plain = Recipe.create(name="x", source={"uri": "x"})
    for folder in (write_encoder(tmp_path / "bert"), write_body(tmp_path / "body")):
        with pytest.raises(QuantizeError, match=r"\[scoring\]"):
            kind_of(folder, recipe)
    with pytest.raises(QuantizeError, match=r"\[scoring\]"):
        kind_of(tmp_path / "model.gguf", recipe)
    with pytest.raises(QuantizeError, match="matryoshka_dimensions"):
        kind_of(tmp_path / "model.gguf", plain.model_copy(update={"matryoshka_dimensions": (8,)}))
    scorer = write_decoder(tmp_path / "decoder", "qwen3")
    assert kind_of(scorer, recipe) is RERANKER
    write_modules(scorer, ["Transformer", "LogitScore"])
    with pytest.raises(QuantizeError, match=r"LogitScore.*\[scoring\]"):
        kind_of(scorer, plain)
    assert kind_of(scorer, recipe) is RERANKER
    with pytest.raises(QuantizeError, match="'maybe' in"):
        RERANKER.describe(recipe.changed({"scoring.no": "maybe"}), scorer)
    with pytest.raises(QuantizeError, match="smoothing"):
        RERANKER.describe(recipe.changed({"weights.smoothing": 0.5}), scorer)


def floats_of(source: Path, target: Path, pairs: list[TokenPair]) -> NDArray[np.float32]:
    config, answers = read_decoder_config(source), answers_of(source, ScoringPart.model_validate(_SCORING))
    build_float_scores(checkpoint_weights(source), config, target, answers, num_positions=256)
    model = Reranker(ModelFile(target / MODEL_NAME), num_threads=1)
    together, alone = model.score(pairs), np.concatenate([model.score([one]) for one in pairs])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    return together


def torch_scores(source: Path, pairs: list[TokenPair]) -> NDArray[np.float32]:
    first, second = answers_of(source, ScoringPart.model_validate(_SCORING))
    with quiet():
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager").eval()
        scores = []
        with torch.no_grad():
            for pair in pairs:
                logits = model(torch.tensor([pair.tokens])).logits[0, -1]
                scores.append(float(logits[first] - logits[second]))
    return np.asarray(scores, np.float32)
