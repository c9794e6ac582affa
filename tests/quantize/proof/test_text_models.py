"""Embedding models and rerankers that transformers 5 writes give the vectors and scores that it computes."""

from __future__ import annotations

import json
import logging
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.bundle import EncoderSpec
from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.texts.embedder import Reranker, TokenPair
from quantize.builder.weights import checkpoint_weights
from quantize.evaluation.runners import load_embedder
from quantize.kinds.encoder_graph.build import build_float_encoder
from quantize.kinds.encoder_graph.scores import build_float_scores
from quantize.sources.checkpoint import ENCODERS, read_checkpoint
from quantize.sources.decoder_config import read_decoder_config
from quantize.sources.encoder_config import read_encoder_config
from quantize.sources.prepare import prepare
from quantize.sources.sentence import read_layout
from tests.quantize.proof.environment import proof_python
from tests.quantize.tiny import VOCAB, change_json, write_sentence_files, write_tokenizer

pytestmark = pytest.mark.slow

_LOGGER = logging.getLogger(__name__)
_PROGRAM = Path(__file__).with_name("publish_texts.py")
_TIMEOUT_S = 600
_MOST = 1e-4  # of the spread
_YES, _NO = 11, 7
_BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_QWEN3 = {
    **_BASE,
    "model_type": "qwen3",
    "num_key_value_heads": 2,
    "head_dim": 48,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
_WINDOWS = ["sliding_attention", "sliding_attention", "full_attention"]
_EMBEDDING_GEMMA = {
    **_BASE,
    "model_type": "gemma3_text",
    "num_key_value_heads": 1,
    "head_dim": 48,
    "query_pre_attn_scalar": 20,
    "sliding_window": 8,
    "layer_types": _WINDOWS,
    "use_bidirectional_attention": True,
}
_EMBEDDING_GEMMA2 = {
    **_BASE,
    "model_type": "embedding_gemma2_text",
    "num_key_value_heads": 2,
    "head_dim": 48,
    "global_head_dim": 96,
    "num_global_key_value_heads": 1,
    "hidden_size_per_layer_input": 32,
    "embedding_dim": 80,
    "sliding_window": 4,
    "layer_types": _WINDOWS,
    "max_position_embeddings": 262144,
}
_GEMMA4_TOWER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_OTHER_TOWERS = {
    "vision_config": {
        **_GEMMA4_TOWER, "model_type": "gemma4_vision", "intermediate_size": 32, "head_dim": 16,
        "global_head_dim": 16, "num_key_value_heads": 2, "position_embedding_size": 16, "patch_size": 4,
    },
    "audio_config": {
        **_GEMMA4_TOWER, "model_type": "gemma4_audio", "output_proj_dims": 32, "subsampling_conv_channels": [8, 4],
    },
}  # fmt: skip
_BGE_M3 = {
    **_BASE,
    "model_type": "xlm-roberta",
    "max_position_embeddings": 130,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "layer_norm_eps": 1e-5,
}
_MODELS: dict[str, dict[str, Any]] = {
    "Qwen3-Embedding": {"config": _QWEN3, "pooling": "lasttoken"},
    "Qwen3-Reranker": {"config": _QWEN3, "auto_class": "AutoModelForCausalLM"},
    "Qwen3-Reranker, untied": {
        "config": {**_QWEN3, "tie_word_embeddings": False},
        "auto_class": "AutoModelForCausalLM",
    },
    "EmbeddingGemma": {"config": _EMBEDDING_GEMMA, "pooling": "mean_tokens", "dense": (192, 64)},
    "EmbeddingGemma 2, text alone, with biases": {
        "config": {**_EMBEDDING_GEMMA2, "attention_bias": True},
        "pooling": "mean_tokens",
        "dense": (48,),
    },
    "EmbeddingGemma 2": {
        "config": {"model_type": "embedding_gemma2", "text_config": _EMBEDDING_GEMMA2, **_OTHER_TOWERS},
        "pooling": "mean_tokens",
    },
    "bge-m3": {"config": _BGE_M3, "pooling": "cls_token"},
}
_ROWS = [np.random.default_rng(0).integers(3, VOCAB, n).tolist() for n in (30, 1, 12, 21, 2)]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models with what transformers 5 computes."""
    python, root = proof_python(), tmp_path_factory.mktemp("published")
    for name, model in _MODELS.items():
        (root / name).mkdir()
        config = model["config"]
        # transformers saves half of a bidirectional window; the publishers' files have the whole one.
        written = {"sliding_window": config["sliding_window"]} if "sliding_window" in config else {}
        auto_class = model.get("auto_class", "AutoModel")
        pad = config.get("text_config", config)["pad_token_id"]
        request = {"config": config, "auto_class": auto_class, "rows": _ROWS, "pad": pad, "written": written}
        (root / name / "request.json").write_text(json.dumps(request))
    command = [str(python), "-I", str(_PROGRAM), *(str(root / name) for name in _MODELS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, model in _MODELS.items():
        write_tokenizer(root / name)
        if "pooling" in model:
            write_sentence_files(root / name, model["pooling"], model.get("dense", ()))
            change_json(root / name / "sentence_bert_config.json", max_seq_length=128)
    return root


@pytest.mark.parametrize("name", [name for name, model in _MODELS.items() if "pooling" in model])
def test_vectors_are_those_of_transformers_5(name: str, published: Path, tmp_path: Path) -> None:
    checkpoint = canonical(published / name, tmp_path / "checkpoint")
    is_encoder = _MODELS[name]["config"]["model_type"] in ENCODERS
    config = read_encoder_config(checkpoint) if is_encoder else read_decoder_config(checkpoint)
    layout = read_layout(checkpoint, config)
    expected = np.stack([layout.vector(hidden) for hidden in outputs(published / name)])
    padded = np.stack([layout.vector(hidden) for hidden in outputs(published / name, "padded.npz")])
    build_float_encoder(checkpoint, checkpoint, config, layout)
    spec = EncoderSpec(architecture="any", dimensions=expected.shape[1], max_tokens=layout.max_tokens)
    embedder = load_embedder(checkpoint, spec)
    assert_equal(name, embedder.embed(_ROWS), expected)
    assert_equal(f"{name}, alone", np.concatenate([embedder.embed([row]) for row in _ROWS]), expected)
    assert_equal(f"{name}, padded by transformers", embedder.embed(_ROWS), padded)


@pytest.mark.parametrize("name", [name for name, model in _MODELS.items() if "pooling" not in model])
def test_scores_are_those_of_transformers_5(name: str, published: Path, tmp_path: Path) -> None:
    checkpoint = canonical(published / name, tmp_path / "checkpoint")
    expected = np.array([logits[-1, _YES] - logits[-1, _NO] for logits in outputs(published / name)])
    config, weights = read_decoder_config(checkpoint), checkpoint_weights(checkpoint)
    build_float_scores(weights, config, checkpoint, (_YES, _NO), num_positions=128)
    reranker = Reranker(ModelFile(checkpoint / MODEL_NAME), num_threads=1)
    pairs = [TokenPair(tuple(row), len(row)) for row in _ROWS]
    assert_equal(name, reranker.score(pairs), expected)
    assert_equal(f"{name}, alone", np.concatenate([reranker.score([pair]) for pair in pairs]), expected)


def canonical(folder: Path, target: Path) -> Path:
    target.mkdir()
    prepare(read_checkpoint(folder), target)
    return target


def outputs(folder: Path, name: str = "outputs.npz") -> list[NDArray[np.float32]]:
    with np.load(folder / name) as arrays:
        return [arrays[name] for name in arrays.files]


def assert_equal(name: str, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    largest = float(np.abs(found - expected).max() / expected.std())
    _LOGGER.info("%s: the largest difference is %.1e of the spread", name, largest)
    assert largest <= _MOST
