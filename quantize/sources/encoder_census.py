"""Every tensor of a text encoder, by name and shape, and the tensors that no vector or score needs."""

from __future__ import annotations

import re

from quantize.sources.census import Shapes
from quantize.sources.encoder_config import EncoderConfig

# What a checkpoint with a task head puts before its encoder.
PREFIXES = {
    "bert": "bert.",
    "roberta": "roberta.",
    "xlm-roberta": "roberta.",
    "mpnet": "mpnet.",
    "nomic_bert": "bert.",
    "modernbert": "model.",
}
POSITION_IDS = "embeddings.position_ids"

_MLM = "predicts masked tokens, which no vector or score needs"
_POOLER = "makes the vector of a task that is not asked for"
_UNUSED: dict[str, str] = {
    r"cls\.(predictions|seq_relationship)\..+": _MLM,
    r"lm_head\.(bias|(dense|layer_norm|decoder)\.(weight|bias))": _MLM,
    r"pooler\.dense\.(weight|bias)": _POOLER,
}
_UNUSED_MODERNBERT: dict[str, str] = {
    r"head\.(dense|norm)\.(weight|bias)": _MLM,
    r"decoder\.(weight|bias)": _MLM,
}


def unused(name: str, config: EncoderConfig, *, is_reranker: bool) -> str | None:
    """Return the reason that a tensor is not needed, or None if there is none."""
    patterns = dict(_UNUSED)
    if config.architecture == "modernbert" and not is_reranker:
        patterns |= _UNUSED_MODERNBERT
    return next((why for pattern, why in patterns.items() if re.fullmatch(pattern, name)), None)


def encoder_shapes(config: EncoderConfig, *, is_reranker: bool) -> Shapes:
    """Return all tensors of an encoder, without a prefix."""
    match config.architecture:
        case "modernbert":
            shapes = _modernbert(config)
        case "nomic_bert":
            shapes = _nomic(config)
        case _:
            shapes = _bert(config)
    return shapes | _score_head(config) if is_reranker else shapes


def _norm(name: str, hidden: int) -> Shapes:
    return {f"{name}.weight": (hidden,), f"{name}.bias": (hidden,)}


def _linear(name: str, outputs: int, inputs: int, *, biased: bool = True) -> Shapes:
    weight: Shapes = {f"{name}.weight": (outputs, inputs)}
    return weight | {f"{name}.bias": (outputs,)} if biased else weight


def _bert(config: EncoderConfig) -> Shapes:
    hidden, wide, is_mpnet = config.hidden_size, config.intermediate_size, config.architecture == "mpnet"
    rows = config.first_position + config.max_positions
    shapes: Shapes = {
        "embeddings.word_embeddings.weight": (config.vocab_size, hidden),
        "embeddings.position_embeddings.weight": (rows, hidden),
        **_norm("embeddings.LayerNorm", hidden),
    }
    if is_mpnet:
        shapes["encoder.relative_attention_bias.weight"] = (config.num_buckets, config.num_heads)
    else:
        shapes["embeddings.token_type_embeddings.weight"] = (config.num_token_types, hidden)
    parts = (
        ("attn.q", "attn.k", "attn.v", "attn.o")
        if is_mpnet
        else ("self.query", "self.key", "self.value", "output.dense")
    )
    norm = "attention.LayerNorm" if is_mpnet else "attention.output.LayerNorm"
    for layer in range(config.num_layers):
        name = f"encoder.layer.{layer}"
        for part in parts:
            shapes |= _linear(f"{name}.attention.{part}", hidden, hidden)
        shapes |= _norm(f"{name}.{norm}", hidden)
        shapes |= _linear(f"{name}.intermediate.dense", wide, hidden) | _linear(f"{name}.output.dense", hidden, wide)
        shapes |= _norm(f"{name}.output.LayerNorm", hidden)
    return shapes


def _nomic(config: EncoderConfig) -> Shapes:
    hidden, wide, biased = config.hidden_size, config.intermediate_size, config.biased
    shapes: Shapes = {"embeddings.word_embeddings.weight": (config.vocab_size, hidden), **_norm("emb_ln", hidden)}
    if config.num_token_types:
        shapes["embeddings.token_type_embeddings.weight"] = (config.num_token_types, hidden)
    for layer in range(config.num_layers):
        name = f"encoder.layers.{layer}"
        shapes |= _norm(f"{name}.norm1", hidden) | _norm(f"{name}.norm2", hidden)
        shapes |= _linear(f"{name}.attn.Wqkv", 3 * hidden, hidden, biased="attention" in biased)
        shapes |= _linear(f"{name}.attn.out_proj", hidden, hidden, biased="attention" in biased)
        for part in ("fc11", "fc12"):
            shapes |= _linear(f"{name}.mlp.{part}", wide, hidden, biased="ffn_in" in biased)
        shapes |= _linear(f"{name}.mlp.fc2", hidden, wide, biased="ffn_out" in biased)
    return shapes


def _modernbert(config: EncoderConfig) -> Shapes:
    hidden, wide, biased = config.hidden_size, config.intermediate_size, config.biased
    shapes: Shapes = {"embeddings.tok_embeddings.weight": (config.vocab_size, hidden)}
    norms = ["embeddings.norm", "final_norm"]
    for layer in range(config.num_layers):
        name = f"layers.{layer}"
        shapes |= _linear(f"{name}.attn.Wqkv", 3 * hidden, hidden, biased="attention" in biased)
        shapes |= _linear(f"{name}.attn.Wo", hidden, hidden, biased="attention" in biased)
        shapes |= _linear(f"{name}.mlp.Wi", 2 * wide, hidden, biased="ffn" in biased)
        shapes |= _linear(f"{name}.mlp.Wo", hidden, wide, biased="ffn" in biased)
        norms += [f"{name}.mlp_norm"] + ([f"{name}.attn_norm"] if layer else [])
    for norm in norms:
        shapes |= _plain_norm(norm, config)
    return shapes


def _plain_norm(name: str, config: EncoderConfig) -> Shapes:
    shapes = _norm(name, config.hidden_size)
    return shapes if "norm" in config.biased else {f"{name}.weight": (config.hidden_size,)}


def _score_head(config: EncoderConfig) -> Shapes:
    hidden = config.hidden_size
    match config.architecture:
        case "modernbert":
            dense = _linear("head.dense", hidden, hidden, biased="classifier" in config.biased)
            return dense | _plain_norm("head.norm", config) | _linear("classifier", 1, hidden)
        case "bert":
            return _linear("pooler.dense", hidden, hidden) | _linear("classifier", 1, hidden)
        case _:
            return _linear("classifier.dense", hidden, hidden) | _linear("classifier.out_proj", 1, hidden)
