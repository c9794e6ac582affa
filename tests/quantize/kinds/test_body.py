"""A decoder's body gives the vectors that torch gives, alone and in a batch, in float and in int8."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.bundle import EncoderSpec
from appliance.errors import QuantizeError
from appliance.home import Home
from appliance.text.tokenizer import Tokenizer as DeviceTokenizer
from quantize.build import build_to_folder
from quantize.evaluation.runners import load_embedder
from quantize.kinds.encoder import ENCODER
from quantize.kinds.encoder_graph.build import build_float_encoder
from quantize.progress import StageProgress
from quantize.quiet import quiet
from quantize.recipe import Recipe
from quantize.sources.checkpoint import read_checkpoint
from quantize.sources.decoder_config import read_decoder_config
from quantize.sources.export_choice import with_export
from quantize.sources.inspection import model_of
from quantize.sources.prepare import prepare
from quantize.sources.sentence import read_layout
from tests.quantize.tiny import DECODERS, FORCED, VOCAB, change_json, write_body

pytestmark = pytest.mark.slow

_RNG = np.random.default_rng(0)
_TEXTS = [_RNG.integers(3, VOCAB, n).tolist() for n in (1, 30, 7, 2, 60, 12)]
_MOST = 1e-4  # of the spread of the vectors' numbers
_EMBEDDING_GEMMA: dict[str, Any] = {
    "use_bidirectional_attention": True,
    "sliding_window": 8,
    "num_hidden_layers": 3,
    "num_key_value_heads": 1,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}
_BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in DECODERS},
    "qwen3, as Qwen3-Embedding": ("qwen3", {"num_hidden_layers": 3, "tie_word_embeddings": True, "rope_theta": 1e6}),
    "gemma3_text, as EmbeddingGemma": (
        "gemma3_text",
        {**_EMBEDDING_GEMMA, "pooling": "mean_tokens", "dense": (96, 32)},
    ),
}


@pytest.mark.parametrize("model", _BODIES)
def test_vectors_equal_torchs_alone_and_in_a_batch(model: str, tmp_path: Path) -> None:
    architecture, changes = _BODIES[model]
    checkpoint = canonical(write_body(tmp_path / "published", architecture, **changes), tmp_path / "checkpoint")
    expected = torch_vectors(tmp_path / "published", checkpoint)
    config = read_decoder_config(checkpoint)
    layout = read_layout(checkpoint, config)
    spec = EncoderSpec(architecture="any", dimensions=expected.shape[1], max_tokens=64)
    (tmp_path / "float").mkdir()
    build_float_encoder(checkpoint, tmp_path / "float", config, layout)
    found = load_embedder(tmp_path / "float", spec)
    assert np.abs(found.embed(_TEXTS) - expected).max() <= _MOST * expected.std()
    alone = np.concatenate([found.embed([text]) for text in _TEXTS])
    assert np.abs(alone - expected).max() <= _MOST * expected.std()


@pytest.mark.parametrize("model", ["qwen3, as Qwen3-Embedding", "gemma3_text, as EmbeddingGemma"])
def test_a_body_becomes_a_bundle_whose_vectors_do_not_depend_on_their_batch(
    model: str, home: Home, tmp_path: Path, progress: StageProgress
) -> None:
    architecture, changes = _BODIES[model]
    source = write_body(tmp_path / "published", architecture, **changes)
    recipe = Recipe.create(name="tiny-body", source={"uri": str(source)}, context_length=48)
    bundle = build_to_folder(recipe, home, tmp_path / "out", progress, FORCED)
    spec = bundle.manifest.model
    assert isinstance(spec, EncoderSpec)
    assert (spec.architecture, spec.max_tokens) == (architecture, 48)
    assert spec.prompts["query"].startswith("Instruct: ")
    evaluation = bundle.manifest.evaluation
    assert evaluation.metrics["cosine_min"] > 0.99
    assert evaluation.metrics["batch_difference"] < 1e-5
    assert evaluation.witness is not None
    assert (evaluation.witness.by, evaluation.witness.read) == ("transformers", "source")
    assert evaluation.witness.difference is not None
    assert evaluation.witness.difference <= 1e-4
    embedder = load_embedder(bundle.folder, spec)
    alone = np.concatenate([embedder.embed([text]) for text in _TEXTS])
    np.testing.assert_allclose(embedder.embed(_TEXTS), alone, atol=1e-5)
    assert ((alone * torch_vectors(source, source)).sum(axis=1) > 0.99).all()


def test_a_text_that_is_cut_keeps_the_token_behind_it(tmp_path: Path) -> None:
    device = DeviceTokenizer.from_file(write_body(tmp_path / "body") / "tokenizer.json")
    tokens = device.cut(device.encode_framed("the quick brown fox jumps over it"), 8)
    with quiet():
        from transformers import AutoTokenizer

        reference = AutoTokenizer.from_pretrained(tmp_path / "body")
        wanted = reference("the quick brown fox jumps over it", truncation=True, max_length=8)["input_ids"]
    assert list(tokens) == wanted
    assert wanted[-1] == 0


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        (
            "1_Pooling/config.json",
            {"pooling_mode_lasttoken": False, "pooling_mode_max_tokens": True},
            "pooling_mode_max",
        ),
        ("1_Pooling/config.json", {"pooling_mode_best_token": True}, "pooling_mode_best_token"),
        ("2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.GELU"}, "activation_function"),
        ("2_Dense/config.json", {"in_features": 32}, "in_features"),
        ("2_Dense/config.json", {"rank": 4}, "rank"),
        ("2_Dense/config.json", {"bias": True}, "linear.bias"),
        ("config.json", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("config.json", {"attention_sinks": 4}, "attention_sinks"),
        ("config_sentence_transformers.json", {"router": "x"}, "router"),
    ],
)
def test_what_is_not_known_stops_the_build_by_name(
    body: Path, file: str, change: dict[str, object], said: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(body, tmp_path / "body")
    change_json(folder / file, **change)
    with pytest.raises(QuantizeError, match=said):
        read_layout(folder, read_decoder_config(folder))


def test_another_module_stops_the_build_by_name(body: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(body, tmp_path / "body")
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(2, {"type": "sentence_transformers.models.WeightedLayerPooling", "path": "2_Weighted"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(QuantizeError, match="WeightedLayerPooling"):
        read_layout(folder, read_decoder_config(folder))


def test_fields_of_the_recipe_that_a_body_does_not_honour_are_refused(body: Path) -> None:
    recipe = Recipe.create(name="x", source={"uri": "x"}, matryoshka_dimensions=(16,))
    spec = ENCODER.describe(recipe, body)
    assert isinstance(spec, EncoderSpec)
    assert (spec.dimensions, spec.matryoshka_dimensions) == (32, (16,))
    with pytest.raises(QuantizeError, match="matryoshka_dimensions has 32"):
        ENCODER.describe(recipe.changed({"matryoshka_dimensions": (16, 32)}), body)
    with pytest.raises(QuantizeError, match="smoothing"):
        ENCODER.describe(recipe.changed({"weights.smoothing": 0.5}), body)
    with pytest.raises(QuantizeError, match="--export optimum"):
        with_export(recipe.changed({"export": "optimum"}), model_of(body))
    assert with_export(recipe, model_of(body))[1].way == "direct"


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_body(tmp_path_factory.mktemp("body") / "published", dense=(32,))


def canonical(published: Path, target: Path) -> Path:
    target.mkdir()
    prepare(read_checkpoint(published), target)
    return target


def torch_vectors(published: Path, checkpoint: Path) -> NDArray[np.float32]:
    layout = read_layout(checkpoint, read_decoder_config(checkpoint))
    with quiet():
        import torch
        from transformers import AutoModel

        model = AutoModel.from_pretrained(published, attn_implementation="eager").eval()
        with torch.no_grad():
            return np.stack(
                [layout.vector(model(torch.tensor([text])).last_hidden_state[0].numpy()) for text in _TEXTS]
            )
