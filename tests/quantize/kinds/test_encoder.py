"""The encoder's graph computes the same as torch, and a vector does not depend on its batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from appliance.bundle import EncoderSpec
from appliance.engine.texts.embedder import Embedder
from appliance.errors import QuantizeError
from quantize.evaluation.runners import load_embedder
from quantize.kinds.encoder_graph.build import build_encoder
from quantize.kinds.encoder_graph.graph import EncoderGraph
from quantize.kinds.encoder_graph.tensors import load_tensors
from quantize.quiet import quiet
from quantize.sources.checkpoint import ENCODERS
from quantize.sources.encoder_config import read_encoder_config
from quantize.sources.sentence import Pooling, SentenceLayout, read_layout
from tests.quantize.nomic import nomic_hidden
from tests.quantize.tiny import VOCAB, change_json, write_encoder

pytestmark = pytest.mark.slow

_RNG = np.random.default_rng(0)
_TEXTS = [_RNG.integers(3, VOCAB, n).tolist() for n in (1, 30, 7, 2, 60, 12)]
_POOLINGS: tuple[Pooling, ...] = ("mean", "cls", "lasttoken")
_MEAN = SentenceLayout("mean", 64)
_SPEC = EncoderSpec(architecture="any", dimensions=64, max_tokens=64)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("bert") / "checkpoint")


@pytest.fixture(scope="module", params=sorted(ENCODERS))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("checkpoint") / "model", request.param)


@pytest.fixture(scope="module")
def int8(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    target = tmp_path_factory.mktemp("int8")
    config = read_encoder_config(checkpoint)
    build_encoder(checkpoint, target, config, read_layout(checkpoint, config), smoothing=0.5)
    return load_embedder(target, _SPEC)


@pytest.mark.parametrize("pooling", _POOLINGS)
def test_the_float_graph_equals_torch(checkpoint: Path, pooling: Pooling, tmp_path: Path) -> None:
    layout = SentenceLayout(pooling, 64)
    graph = EncoderGraph(read_encoder_config(checkpoint), load_tensors(checkpoint)).vectors(layout)
    ir.save(graph, tmp_path / "model.onnx")
    embedder = load_embedder(tmp_path, _SPEC)
    np.testing.assert_allclose(embedder.embed(_TEXTS), torch_vectors(checkpoint, pooling), atol=2e-6)


def test_a_vector_is_the_same_alone_and_in_a_mixed_batch(int8: Embedder) -> None:
    alone = np.concatenate([int8.embed([text]) for text in _TEXTS])
    np.testing.assert_allclose(int8.embed(_TEXTS), alone, atol=1e-6)
    np.testing.assert_allclose(int8.embed(_TEXTS[::-1])[::-1], alone, atol=1e-6)


def test_int8_vectors_are_close_to_float_and_of_unit_length(checkpoint: Path, int8: Embedder) -> None:
    vectors = int8.embed(_TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert ((vectors * torch_vectors(checkpoint, "mean")).sum(axis=1) > 0.99).all()


def test_positions_before_a_texts_first_one_are_not_counted(tmp_path: Path) -> None:
    config = read_encoder_config(write_encoder(tmp_path / "checkpoint", "xlm-roberta"))
    assert (config.first_position, config.max_positions) == (2, 126)


def test_a_text_as_long_as_the_positions_go(tmp_path: Path) -> None:
    checkpoint = write_encoder(tmp_path / "checkpoint", "mpnet")
    config = read_encoder_config(checkpoint)
    ir.save(EncoderGraph(config, load_tensors(checkpoint)).vectors(_MEAN), tmp_path / "model.onnx")
    text = _RNG.integers(3, VOCAB, config.max_positions).tolist()
    wanted = torch_vectors(checkpoint, "mean", [text])
    np.testing.assert_allclose(load_embedder(tmp_path, _SPEC).embed([text]), wanted, atol=2e-6)


def test_weights_of_another_form_are_refused_by_name(bert: Path) -> None:
    tensors = dict(load_tensors(bert))
    del tensors["encoder.layer.1.output.dense.bias"]
    graph = EncoderGraph(read_encoder_config(bert), tensors)
    with pytest.raises(QuantizeError, match=r"encoder\.layer\.1\.output\.dense\.bias"):
        graph.vectors(_MEAN)


def test_a_config_that_contradicts_the_weights_is_refused(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "bert")
    change_json(folder / "config.json", intermediate_size=100)
    config = read_encoder_config(folder)
    with pytest.raises(QuantizeError, match=r"has the shape \[128, 64\], but config\.json says \[100, 64\]"):
        build_encoder(folder, tmp_path, config, SentenceLayout("mean", 64), smoothing=0.5)


@pytest.mark.parametrize(
    ("architecture", "field", "value"),
    [
        ("bert", "position_embedding_type", "relative_key"),
        ("mpnet", "hidden_act", "relu"),
        ("nomic_bert", "prenorm", True),
        ("nomic_bert", "rotary_emb_fraction", 0.5),
        ("nomic_bert", "activation_function", "gelu"),
        ("modernbert", "hidden_activation", "relu"),
    ],
)
def test_what_the_graph_cannot_do_is_refused_by_its_field(
    architecture: str, field: str, value: object, tmp_path: Path
) -> None:
    folder = write_encoder(tmp_path / "checkpoint", architecture)
    change_json(folder / "config.json", **{field: value})
    with pytest.raises(QuantizeError, match=field):
        read_encoder_config(folder)


def test_scaled_rotary_positions_end_where_the_training_did(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "checkpoint", "nomic_bert")
    assert read_encoder_config(folder).max_positions == 128
    change_json(folder / "config.json", rotary_scaling_factor=2.0)
    assert read_encoder_config(folder).max_positions == 64


def torch_vectors(checkpoint: Path, pooling: Pooling, texts: list[list[int]] | None = None) -> NDArray[np.float32]:
    texts = _TEXTS if texts is None else texts
    if read_encoder_config(checkpoint).architecture == "nomic_bert":
        hidden = [nomic_hidden(checkpoint, text).numpy() for text in texts]
    else:
        hidden = _transformers_hidden(checkpoint, texts)
    pools = {"mean": lambda rows: rows.mean(axis=0), "cls": lambda rows: rows[0], "lasttoken": lambda rows: rows[-1]}
    pooled = np.stack([pools[pooling](rows) for rows in hidden])
    return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), np.float32)


def _transformers_hidden(checkpoint: Path, texts: list[list[int]]) -> list[NDArray[np.float32]]:
    with quiet():
        import torch
        from transformers import AutoModel

        model = AutoModel.from_pretrained(checkpoint, attn_implementation="eager").eval()
        with torch.no_grad():
            return [model(torch.tensor([text])).last_hidden_state[0].numpy() for text in texts]
