"""The builder's graph is the one that the fusion makes of optimum's export: node by node, and to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from quantize.builder.decoder import build_decoder
from quantize.builder.weights import checkpoint_weights, gguf_weights
from quantize.fusion.export import DECODER_TASK, export
from quantize.fusion.fuse import fuse_file
from quantize.sources.checkpoint import read_checkpoint
from quantize.sources.decoder_config import read_decoder_config
from quantize.sources.gguf_file import dequantize, read_gguf_checkpoint
from quantize.sources.prepare import prepare
from tests.quantize.builder.equality import differences
from tests.quantize.tiny import DECODERS, write_decoder
from tests.quantize.tiny_gguf import write_gguf

_LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0 + i / 16 for i in range(24)],
    "long_factor": [1.0 + i for i in range(24)],
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
_LINEAR = {"rope_type": "linear", "factor": 8.0}
_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in DECODERS},
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama tied, with wide heads": ("llama", {"tie_word_embeddings": True, "head_dim": 32}),
    "llama, one head of keys": ("llama", {"num_key_value_heads": 1, "rope_scaling": None, "rope_theta": 5e5}),
    "llama, linear": ("llama", {"rope_scaling": _LINEAR}),
    "llama, longrope with equal lists": (
        "llama",
        {
            "rope_scaling": {
                "rope_type": "longrope",
                "short_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
                "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
                "attention_factor": 1.25,
            },
            "original_max_position_embeddings": 256,
        },
    ),
    "llama, yarn": ("llama", {"rope_scaling": _YARN, "rope_theta": 1e6}),
    "qwen2 untied, windows above": (
        "qwen2",
        {
            "tie_word_embeddings": False,
            "use_sliding_window": True,
            "sliding_window": 8,
            "layer_types": ["full_attention", "sliding_attention"],
        },
    ),
    "qwen3 with biases, yarn": ("qwen3", {"attention_bias": True, "rope_scaling": _YARN}),
    "gemma3_text, linear": ("gemma3_text", {"rope_scaling": _LINEAR, "query_pre_attn_scalar": 20}),
    "granite with biases": ("granite", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
    "granite, factors of one": ("granite", {"embedding_multiplier": 1.0, "residual_multiplier": 1.0}),
    "smollm3 with biases": ("smollm3", {"attention_bias": True, "mlp_bias": True}),
    "mistral, all tokens": ("mistral", {"sliding_window": None, "rope_theta": 1e6}),
    "phi3, a part of each head": (
        "phi3",
        {"hidden_size": 256, "partial_rotary_factor": 0.75, "tie_word_embeddings": True},
    ),
    "phi3, longrope": (
        "phi3",
        {
            "hidden_size": 256,
            "partial_rotary_factor": 0.75,
            "rope_scaling": _LONGROPE,
            "original_max_position_embeddings": 64,
        },
    ),
}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("variant", _VARIANTS)
def test_both_ways_give_one_graph(variant: str, tmp_path: Path) -> None:
    architecture, changes = _VARIANTS[variant]
    checkpoint = canonical(write_decoder(tmp_path / "published", architecture, **changes), tmp_path / "checkpoint")
    assert differences(fused(checkpoint, tmp_path), built(checkpoint, tmp_path)) == []


def test_a_gguf_file_gives_the_graph_of_its_float_checkpoint(tmp_path: Path) -> None:
    source, checkpoint = write_gguf(tmp_path / "model.gguf"), tmp_path / "checkpoint"
    checkpoint.mkdir()
    dequantize(source, checkpoint)
    found, config = read_gguf_checkpoint(source), read_decoder_config(checkpoint)
    (tmp_path / "straight").mkdir()
    build_decoder(gguf_weights(found), config, tmp_path / "straight", context_length=64)
    straight = ir.load(tmp_path / "straight" / "model.onnx")
    assert differences(fused(checkpoint, tmp_path), straight) == []


@pytest.mark.parametrize("part", ["weight", "node", "order"])
def test_a_difference_is_seen(part: str, tmp_path: Path) -> None:
    checkpoint = canonical(write_decoder(tmp_path / "published", "llama"), tmp_path / "checkpoint")
    left, right = built(checkpoint, tmp_path / "a"), built(checkpoint, tmp_path / "b")
    assert differences(left, right) == []
    if part == "weight":
        value = right.graph.initializers["model.norm.weight"]
        value.const_value = ir.tensor(np.nextafter(value.const_value.numpy(), np.float32(9)), name=value.name)
    elif part == "node":
        next(node for node in right.graph if node.op_type == "Sigmoid").op_type = "Tanh"
    else:
        split = next(node for node in right.graph if node.op_type == "Split")
        gate, up = split.outputs
        uses = {value: list(value.uses()) for value in (gate, up)}
        for value, other in ((gate, up), (up, gate)):
            for use in uses[value]:
                use.node.replace_input_with(use.idx, other)
    assert differences(left, right)


def canonical(published: Path, target: Path) -> Path:
    """Write the folder that a build's stages work on."""
    target.mkdir()
    prepare(read_checkpoint(published), target)
    return target


def fused(checkpoint: Path, root: Path) -> ir.Model:
    """Export with optimum and fuse."""
    target = root / "fused"
    target.mkdir(parents=True)
    export(checkpoint, root / "exported", task=DECODER_TASK)
    fuse_file(root / "exported", target, read_decoder_config(checkpoint), context_length=64)
    return ir.load(target / "model.onnx")


def built(checkpoint: Path, root: Path) -> ir.Model:
    """Build from the tensors."""
    target = root / "built"
    target.mkdir(parents=True)
    config = read_decoder_config(checkpoint)
    build_decoder(checkpoint_weights(checkpoint), config, target, context_length=64)
    return ir.load(target / "model.onnx")
