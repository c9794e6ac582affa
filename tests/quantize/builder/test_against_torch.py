"""The built graph computes the same as torch: chunked prefill, decode, and rows of different length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.quantize.builder.running import ROW_LENGTHS, assert_computes, assert_no_cut_changes_a_bit, built_runner
from tests.quantize.builder.test_equal_graphs import canonical
from tests.quantize.fusion.test_fuse import torch_logits
from tests.quantize.tiny import GRANITE_EXPERTS, GRANITE_HYBRID, VOCAB, write_decoder

pytestmark = pytest.mark.slow

_LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0 + i / 16 for i in range(24)],
    "long_factor": [1.0 + i for i in range(24)],
}
# Every feature that the family's published models have, switched on.
_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Granite 4 dense": ("granitemoehybrid", {}),
    "Granite 4 dense, biases, untied": ("granitemoehybrid", {"attention_bias": True, "tie_word_embeddings": False}),
    "Granite 4 dense without positions": ("granitemoehybrid", {"position_embedding_type": "nope"}),
    "LFM2": ("lfm2", {}),
    "Qwen3 with experts": ("qwen3_moe", {}),
    "Qwen3 with experts in every second layer, weights as they are": (
        "qwen3_moe",
        {"mlp_only_layers": [], "decoder_sparse_step": 2, "norm_topk_prob": False, "attention_bias": True},
    ),
    "LFM2, biases, untied, kernel of four": (
        "lfm2",
        {"conv_bias": True, "tie_word_embeddings": False, "conv_L_cache": 4, "block_auto_adjust_ff_dim": False},
    ),
    "Granite 4 hybrid": ("granitemoehybrid", GRANITE_HYBRID),
    "Granite 4 hybrid, biases": ("granitemoehybrid", {**GRANITE_HYBRID, "mamba_proj_bias": True}),
    "Granite 4 hybrid with experts": ("granitemoehybrid", GRANITE_EXPERTS),
    "Phi-4-mini": (
        "phi3",
        {
            "hidden_size": 256,
            "partial_rotary_factor": 0.75,
            "rope_scaling": _LONGROPE,
            "original_max_position_embeddings": 64,
            "tie_word_embeddings": True,
        },
    ),
}


@pytest.mark.parametrize("model", _MODELS)
def test_the_built_graph_equals_torch_through_chunks_and_rows_of_different_length(model: str, tmp_path: Path) -> None:
    architecture, changes = _MODELS[model]
    published = write_decoder(tmp_path / "published", architecture, **changes)
    checkpoint = canonical(published, tmp_path / "checkpoint")
    rows = [np.random.default_rng(0).integers(3, VOCAB, n) for n in ROW_LENGTHS]
    assert_computes(checkpoint, tmp_path / "built", rows, torch_logits(published, rows))


@pytest.mark.parametrize("architecture", ["lfm2"])
def test_a_prompt_gives_the_same_bits_however_it_is_cut(architecture: str, tmp_path: Path) -> None:
    checkpoint = canonical(write_decoder(tmp_path / "published", architecture), tmp_path / "checkpoint")
    row = np.random.default_rng(0).integers(3, VOCAB, ROW_LENGTHS[0])
    assert_no_cut_changes_a_bit(built_runner(checkpoint, tmp_path / "built"), row)
