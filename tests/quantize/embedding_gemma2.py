"""A small random EmbeddingGemma 2 in its publisher's form, and its vectors written out in numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, processors

from quantize.sources.census import decoder_shapes
from quantize.sources.decoder_keys import read_decoder_keys
from quantize.sources.tensors import TensorWriter, read_header
from tests.quantize.sources import published_embedding_gemma2 as published
from tests.quantize.tiny import SPECIALS, VOCAB, write_tokenizer

_DIMENSIONS, _HEADS = 48, 4
_SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": _HEADS,
    "head_dim": 16,
    "hidden_size_per_layer_input": 32,
    "embedding_dim": _DIMENSIONS,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "sliding_window": 3,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "per_layer_config": {"2": {"head_dim": 32, "num_key_value_heads": 1}},
}
_THETAS = {"sliding_attention": 1e4, "full_attention": 1e6}

Float64 = NDArray[np.float64]


def write_embedding_gemma2(folder: Path) -> Path:
    """Write a sentence-transformers folder around a model for texts, images and sound."""
    folder.mkdir()
    config = {**published.EMBEDDING_GEMMA2, "text_config": {**published.EMBEDDING_GEMMA2["text_config"], **_SMALL}}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = decoder_shapes(read_decoder_keys(config, is_body=True).config, is_body=True)
    stored = {f"language_model.{name.removeprefix('model.')}": shape for name, shape in shapes.items()}
    others = {
        "vision_tower.patch_embedder.input_proj.weight": (8, 8),
        "embed_audio.embedding_projection.weight": (8, 8),
    }
    rng = np.random.default_rng(0)
    with TensorWriter(folder / "model.safetensors", {**stored, **others}) as writer:
        for name, shape in {**stored, **others}.items():
            values = rng.standard_normal(shape) * (0.1 if len(shape) == 1 else 1.5 * shape[-1] ** -0.5)
            values += 0.8 if name.endswith("layer_scalar") else float("norm" in name)
            writer.write(name, values.astype(np.float32))
    _write_tokenizer(folder)
    (folder / "modules.json").write_text(json.dumps(published.MODULES))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({**published.POOLING, "embedding_dimension": _DIMENSIONS}))
    (folder / "sentence_bert_config.json").write_text(json.dumps(published.SENTENCE_BERT))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(published.PROMPTS))
    return folder


def _write_tokenizer(folder: Path) -> None:
    write_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIALS[1]} $A {SPECIALS[0]}", special_tokens=[(SPECIALS[1], 1), (SPECIALS[0], 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(published.TOKENIZER))
    (folder / "chat_template.jinja").write_text(published.CHAT_TEMPLATE)


def written_out(folder: Path, tokens: list[int]) -> Float64:
    """Compute the unit vector of one text."""
    text = json.loads((folder / "config.json").read_text())["text_config"]
    tensors = {
        name.removeprefix("language_model."): tensor.load().astype(np.float64)
        for name, tensor in read_header(folder / "model.safetensors").items()
    }
    x = tensors["embed_tokens.weight"][tokens] * text["hidden_size"] ** 0.5
    own = x @ tensors["ple.per_layer_model_projection.weight"].T * text["hidden_size"] ** -0.5
    own = own.reshape(len(tokens), text["num_hidden_layers"], -1)
    own = _normed(own, tensors["ple.per_layer_projection_norm.weight"])
    for layer, kind in enumerate(text["layer_types"]):
        part = {n.removeprefix(f"layers.{layer}."): v for n, v in tensors.items() if n.startswith(f"layers.{layer}.")}
        reach = text["sliding_window"] if kind == "sliding_attention" else len(tokens)
        y = _attention(part, _normed(x, part["input_layernorm.weight"]), _THETAS[kind], reach)
        x = x + _normed(y, part["post_attention_layernorm.weight"])
        y = _normed(x, part["pre_feedforward_layernorm.weight"])
        y = _gelu(y @ part["mlp.gate_proj.weight"].T) * (y @ part["mlp.up_proj.weight"].T)
        x = x + _normed(y @ part["mlp.down_proj.weight"].T, part["post_feedforward_layernorm.weight"])
        y = _gelu(x @ part["ple_block.per_layer_input_gate.weight"].T) * own[:, layer]
        y = y @ part["ple_block.per_layer_projection.weight"].T
        x = (x + _normed(y, part["ple_block.post_per_layer_input_norm.weight"])) * part["layer_scalar"]
    states = _normed(x, tensors["norm.weight"]) @ tensors["embedding_projection.weight"].T
    pooled = states.mean(axis=0)
    return np.asarray(pooled / np.linalg.norm(pooled))


def _attention(part: dict[str, Any], x: Float64, theta: float, reach: int) -> Float64:
    width, count = len(part["self_attn.q_norm.weight"]), len(x)
    q, k, v = ((x @ part[f"self_attn.{n}_proj.weight"].T).reshape(count, -1, width).swapaxes(0, 1) for n in "qkv")
    q = _turned(_normed(q, part["self_attn.q_norm.weight"]), theta)
    k = _turned(_normed(k, part["self_attn.k_norm.weight"]), theta)
    v = _normed(v, np.ones(width))
    k, v = (np.repeat(rows, _HEADS // len(rows), axis=0) for rows in (k, v))
    places = np.arange(count)
    scores = np.where(np.abs(places - places[:, None]) <= reach, q @ k.swapaxes(1, 2), -np.inf)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    context = shares / shares.sum(axis=-1, keepdims=True) @ v
    return np.asarray(context.swapaxes(0, 1).reshape(count, -1) @ part["self_attn.o_proj.weight"].T)


def _turned(x: Float64, theta: float) -> Float64:
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] / theta ** (np.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _normed(x: Float64, weight: Float64) -> Float64:
    return np.asarray(x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * weight)


def _gelu(x: Float64) -> Float64:
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))
