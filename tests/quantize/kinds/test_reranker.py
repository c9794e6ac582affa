"""A cross-encoder's graph scores pairs as torch does, and a score does not depend on its batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from appliance.bundle import RerankerSpec
from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.texts.embedder import Reranker, TokenPair
from appliance.errors import QuantizeError
from appliance.home import Home
from quantize.build import build_to_folder
from quantize.evaluation.reranker import encoded_pairs
from quantize.kinds.encoder_graph.build import build_reranker
from quantize.kinds.encoder_graph.graph import EncoderGraph
from quantize.kinds.encoder_graph.tensors import load_tensors
from quantize.progress import StageProgress
from quantize.quiet import quiet
from quantize.recipe import Recipe
from quantize.sources.checkpoint import is_reranker
from quantize.sources.encoder_config import read_encoder_config
from tests.quantize.tiny import VOCAB, change_json, write_encoder, write_reranker

pytestmark = pytest.mark.slow

_RNG = np.random.default_rng(0)
_ROUNDING = 5e-6  # of float32 sums, which processors order in different ways; scores lie between -3 and 3
_ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "mpnet", "modernbert")


def pair(num_first: int, num_second: int) -> TokenPair:
    tokens = tuple(_RNG.integers(3, VOCAB, num_first + num_second).tolist())
    return TokenPair(tokens, num_first)


_PAIRS = [pair(3, 4), pair(5, 60), pair(1, 20), pair(30, 2), pair(4, 33)]


@pytest.mark.parametrize("architecture", _ARCHITECTURES)
def test_the_float_graph_equals_torch(architecture: str, tmp_path: Path) -> None:
    checkpoint = write_reranker(tmp_path / "checkpoint", architecture)
    ir.save(EncoderGraph(read_encoder_config(checkpoint), load_tensors(checkpoint)).scores(), tmp_path / MODEL_NAME)
    expected = torch_scores(checkpoint, _PAIRS)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(reranker_of(tmp_path).score(_PAIRS), expected, atol=_ROUNDING)


def test_modern_berts_head_may_take_the_mean(tmp_path: Path) -> None:
    checkpoint = write_reranker(tmp_path / "checkpoint", "modernbert", classifier_pooling="mean")
    ir.save(EncoderGraph(read_encoder_config(checkpoint), load_tensors(checkpoint)).scores(), tmp_path / MODEL_NAME)
    np.testing.assert_allclose(reranker_of(tmp_path).score(_PAIRS), torch_scores(checkpoint, _PAIRS), atol=_ROUNDING)


def test_which_segment_a_token_belongs_to_matters(tmp_path: Path) -> None:
    checkpoint = write_reranker(tmp_path / "checkpoint")
    ir.save(EncoderGraph(read_encoder_config(checkpoint), load_tensors(checkpoint)).scores(), tmp_path / MODEL_NAME)
    tokens = _PAIRS[1].tokens
    scores = reranker_of(tmp_path).score([TokenPair(tokens, 5), TokenPair(tokens, 40)])
    assert abs(scores[0] - scores[1]) > 1e-4


def test_an_int8_score_is_close_to_float_and_the_same_in_every_batch(tmp_path: Path) -> None:
    checkpoint = write_reranker(tmp_path / "checkpoint")
    build_reranker(checkpoint, tmp_path, read_encoder_config(checkpoint), spec_of(64), smoothing=0.5)
    reranker = reranker_of(tmp_path)
    pairs = [pair(5, n) for n in range(2, 42)]
    together = reranker.score(pairs)
    alone = np.concatenate([reranker.score([one]) for one in pairs])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert np.corrcoef(together, torch_scores(checkpoint, pairs))[0, 1] > 0.99


def test_the_document_is_cut_and_the_query_is_not(tmp_path: Path) -> None:
    checkpoint = write_reranker(tmp_path / "checkpoint")
    whole, cut = (encoded_pairs(checkpoint, [("the fox", "dog " * 50)], spec_of(limit))[0] for limit in (1000, 24))
    assert len(cut) == 24
    assert cut.second_start == whole.second_start
    assert cut.tokens[:23] == whole.tokens[:23]
    assert cut.tokens[-1] == whole.tokens[-1]


def test_a_cross_encoder_becomes_a_bundle_that_says_how_good_it_is(
    home: Home, tmp_path: Path, progress: StageProgress
) -> None:
    checkpoint = write_reranker(tmp_path / "tiny-reranker")
    recipe = Recipe.create(name="tiny-reranker", source={"uri": str(checkpoint)})
    bundle = build_to_folder(recipe, home, tmp_path / "out", progress)
    assert bundle.manifest.model == RerankerSpec(architecture="bert", max_tokens=128)
    metrics = bundle.manifest.evaluation.metrics
    assert metrics["score_correlation"] > 0.98
    assert 0.5 < metrics["order_agreement"] <= 1
    assert metrics["batch_difference"] < 1e-5
    assert b"score of one pair" in bundle.path("report.html").read_bytes()


def test_a_classifier_of_several_labels_is_no_reranker(tmp_path: Path) -> None:
    checkpoint = write_reranker(tmp_path / "checkpoint")
    change_json(checkpoint / "config.json", id2label={"0": "no", "1": "yes", "2": "maybe"})
    with pytest.raises(QuantizeError, match="3 labels"):
        is_reranker(checkpoint)
    assert not is_reranker(write_encoder(tmp_path / "encoder"))


def spec_of(max_tokens: int) -> RerankerSpec:
    return RerankerSpec(architecture="any", max_tokens=max_tokens)


def reranker_of(folder: Path) -> Reranker:
    return Reranker(ModelFile(folder / MODEL_NAME), num_threads=1)


def torch_scores(checkpoint: Path, pairs: list[TokenPair]) -> NDArray[np.float32]:
    with quiet():
        import torch
        from transformers import AutoModelForSequenceClassification

        model = AutoModelForSequenceClassification.from_pretrained(checkpoint, attn_implementation="eager").eval()
        has_types = getattr(model.config, "type_vocab_size", 0) > 1
        scores = []
        with torch.no_grad():
            for one in pairs:
                types = [[int(place >= one.second_start) for place in range(len(one))]]
                extra = {"token_type_ids": torch.tensor(types)} if has_types else {}
                scores.append(float(model(torch.tensor([one.tokens]), **extra).logits[0, 0]))
    return np.asarray(scores, np.float32)
