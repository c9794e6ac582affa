"""The encoder's graph computes what torch computes, and a vector does not depend on its batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from appliance.engine.provider import session_options
from appliance.errors import QuantizeError
from quantize.encoders.bert import EncoderGraph
from quantize.encoders.build import build_encoder, load_weights
from quantize.evaluation.encoder import embed
from quantize.quiet import quiet
from quantize.sources.checkpoint import ENCODERS, read_encoder_config
from quantize.sources.sentence import Pooling, SentenceLayout, read_layout
from tests.quantize.tiny import VOCAB, change_json, write_encoder

_RNG = np.random.default_rng(0)
_TEXTS = [_RNG.integers(3, VOCAB, n).tolist() for n in (1, 30, 7, 2, 60, 12)]
_POOLINGS: tuple[Pooling, ...] = ("mean", "cls")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("bert") / "checkpoint")


@pytest.fixture(scope="module")
def int8_session(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> ort.InferenceSession:
    target = tmp_path_factory.mktemp("int8")
    config = read_encoder_config(bert)
    build_encoder(bert, target, config, read_layout(bert, config), smoothing=0.5)
    return ort.InferenceSession(str(target / "model.onnx"), session_options(1))


@pytest.mark.parametrize("pooling", _POOLINGS)
@pytest.mark.parametrize("architecture", sorted(ENCODERS))
def test_the_float_graph_equals_torch(architecture: str, pooling: Pooling, tmp_path: Path) -> None:
    checkpoint = write_encoder(tmp_path / "checkpoint", architecture)
    graph = EncoderGraph(read_encoder_config(checkpoint), load_weights(checkpoint), pooling).build()
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString(), session_options(1))
    np.testing.assert_allclose(embed(session, _TEXTS), torch_vectors(checkpoint, pooling), atol=2e-6)


def test_positions_before_a_texts_first_one_are_not_counted(tmp_path: Path) -> None:
    config = read_encoder_config(write_encoder(tmp_path / "checkpoint", "xlm-roberta"))
    assert (config.first_position, config.max_positions) == (2, 126)


def test_a_vector_is_the_same_alone_and_in_a_mixed_batch(int8_session: ort.InferenceSession) -> None:
    alone = np.concatenate([embed(int8_session, [text]) for text in _TEXTS])
    np.testing.assert_allclose(embed(int8_session, _TEXTS), alone, atol=1e-6)
    np.testing.assert_allclose(embed(int8_session, _TEXTS[::-1])[::-1], alone, atol=1e-6)


def test_int8_vectors_are_close_to_float_and_of_unit_length(bert: Path, int8_session: ort.InferenceSession) -> None:
    vectors = embed(int8_session, _TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert ((vectors * torch_vectors(bert, "mean")).sum(axis=1) > 0.99).all()


def test_weights_of_another_form_are_refused_by_name(bert: Path) -> None:
    weights = dict(load_weights(bert))
    del weights["encoder.layer.1.output.dense.bias"]
    graph = EncoderGraph(read_encoder_config(bert), weights, "mean")
    with pytest.raises(QuantizeError, match=r"encoder\.layer\.1\.output\.dense\.bias"):
        graph.build()


def test_a_config_that_contradicts_the_weights_is_refused(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "bert")
    change_json(folder / "config.json", intermediate_size=100)
    config = read_encoder_config(folder)
    with pytest.raises(QuantizeError, match=r"has the shape \[128, 64\], but config\.json says \[100, 64\]"):
        build_encoder(folder, tmp_path, config, SentenceLayout("mean", 64), smoothing=0.5)


def torch_vectors(checkpoint: Path, pooling: Pooling) -> NDArray[np.float32]:
    with quiet():
        import torch
        from transformers import AutoModel

        model = AutoModel.from_pretrained(checkpoint, attn_implementation="eager").eval()
        with torch.no_grad():
            hidden = [model(torch.tensor([text])).last_hidden_state[0].numpy() for text in _TEXTS]
    pooled = np.stack([rows.mean(axis=0) if pooling == "mean" else rows[0] for rows in hidden])
    return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), np.float32)
