"""EmbeddingGemma 2's text model gives the vectors that its layers give written out, alone, in a batch and in int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.bundle import EncoderSpec
from appliance.errors import QuantizeError
from appliance.home import Home
from quantize.build import build_to_folder
from quantize.evaluation.runners import load_embedder
from quantize.kinds.encoder_graph.build import build_float_encoder
from quantize.progress import StageProgress
from quantize.recipe import Recipe
from quantize.sources.checkpoint import read_checkpoint
from quantize.sources.decoder_config import read_decoder_config
from quantize.sources.prepare import prepare
from quantize.sources.sentence import read_layout
from tests.quantize.embedding_gemma2 import write_embedding_gemma2, written_out
from tests.quantize.sources.mutations import read_tensors, write_tensors
from tests.quantize.sources.published_embedding_gemma2 import SENTENCE_BERT
from tests.quantize.tiny import FORCED, TEMPLATE, VOCAB, change_json

_RNG = np.random.default_rng(0)
_TEXTS = [_RNG.integers(3, VOCAB, n).tolist() for n in (1, 20, 7, 2, 40, 12)]
_MOST = 1e-5  # of the spread of the vectors' numbers
_READ = {"method": "forward", "method_output_name": "last_hidden_state"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedding_gemma2(tmp_path_factory.mktemp("source") / "published")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_embedding_gemma2(tmp_path / "published")


def test_vectors_are_those_of_its_layers_written_out_alone_and_in_a_batch(source: Path, tmp_path: Path) -> None:
    prepare(read_checkpoint(source), tmp_path)
    config = read_decoder_config(tmp_path)
    layout = read_layout(tmp_path, config)
    assert (layout.pooling, layout.max_tokens, layout.dimensions(config.output_size)) == ("mean", 8192, 48)
    build_float_encoder(tmp_path, tmp_path, config, layout)
    embedder = load_embedder(tmp_path, EncoderSpec(architecture="any", dimensions=48, max_tokens=64))
    expected = np.stack([written_out(source, text) for text in _TEXTS])
    for found in (embedder.embed(_TEXTS), np.concatenate([embedder.embed([text]) for text in _TEXTS])):
        assert np.abs(found - expected).max() <= _MOST * expected.std()


@pytest.mark.slow
def test_it_becomes_a_bundle_of_int8_whose_vectors_do_not_depend_on_their_batch(
    source: Path, home: Home, tmp_path: Path, progress: StageProgress
) -> None:
    recipe = Recipe.create(
        name="tiny", source={"uri": str(source)}, context_length=48, matryoshka_dimensions=(16,), license="MIT"
    )
    bundle = build_to_folder(recipe, home, tmp_path / "out", progress, FORCED)
    spec = bundle.manifest.model
    assert isinstance(spec, EncoderSpec)
    assert (spec.architecture, spec.dimensions, spec.max_tokens) == ("embedding_gemma2_text", 48, 48)
    assert spec.prompts == {"query": "task: search result | query: ", "document": "title: none | text: "}
    evaluation = bundle.manifest.evaluation
    assert evaluation.metrics["cosine_min"] > 0.99
    assert evaluation.metrics["batch_difference"] < 1e-5
    assert evaluation.witness is not None
    assert evaluation.witness.by == "retrieval"
    embedder = load_embedder(bundle.folder, spec)
    alone = np.concatenate([embedder.embed([text]) for text in _TEXTS])
    np.testing.assert_allclose(embedder.embed(_TEXTS), alone, atol=1e-5)
    assert ((alone * np.stack([written_out(source, text) for text in _TEXTS])).sum(axis=1) > 0.99).all()


def test_images_and_sound_are_left_out_and_every_other_tensor_is_needed(folder: Path) -> None:
    found = read_checkpoint(folder)
    assert found.left_out["vision_tower.patch_embedder.input_proj.weight"] == "images are not read"
    assert found.left_out["embed_audio.embedding_projection.weight"] == "sound is not read"
    assert found.left_out["config.json: audio_config"] == "sound is not read"
    tensors = read_tensors(folder / "model.safetensors")
    lost = tensors.pop("language_model.layers.1.ple_block.per_layer_input_gate.weight")
    write_tensors(folder / "model.safetensors", tensors)
    with pytest.raises(QuantizeError, match=r"ple_block\.per_layer_input_gate"):
        read_checkpoint(folder)
    write_tensors(folder / "model.safetensors", {**tensors, "language_model.embed_tokens_per_layer.weight": lost})
    with pytest.raises(QuantizeError, match="embed_tokens_per_layer"):
        read_checkpoint(folder)


def test_a_chat_template_that_adds_to_a_text_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with pytest.raises(QuantizeError, match=r"modality_config .* has message"):
        read_layout(folder, _config(folder))
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    with pytest.raises(QuantizeError, match="chat template cannot write a text"):
        read_layout(folder, _config(folder))
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(QuantizeError, match=r"has message: .* makes None of"):
        read_layout(folder, _config(folder))


@pytest.mark.parametrize(
    "modalities",
    [
        {"image": _READ},
        {"text": _READ, "smell": _READ},
        {"text": {**_READ, "method": "get_text_features"}},
        {"text": _READ, "message": {**_READ, "format": "flat"}},
    ],
)
def test_another_way_to_read_a_text_is_refused(modalities: dict[str, Any], folder: Path) -> None:
    change_json(folder / "sentence_bert_config.json", **{**SENTENCE_BERT, "modality_config": modalities})
    with pytest.raises(QuantizeError, match="modality_config"):
        read_layout(folder, _config(folder))


def _config(folder: Path) -> Any:
    return read_decoder_config(folder)
