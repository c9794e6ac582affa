"""Checkpoints that transformers 5 writes give graphs that compute what transformers 5 computes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.quantize.builder.running import ROW_LENGTHS, assert_computes, assert_no_cut_changes_a_bit, built_runner
from tests.quantize.builder.test_equal_graphs import canonical
from tests.quantize.proof.nemotron import NEMOTRON_H
from tests.quantize.proof.publisher import Publisher
from tests.quantize.tiny import VOCAB, write_tokenizer

pytestmark = pytest.mark.slow

_LOGGER = logging.getLogger(__name__)
_BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.6,
    "attention_multiplier": 0.2,
    "logits_scaling": 4.0,
}
_GRANITE4 = {
    **_MULTIPLIERS,
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "shared_intermediate_size": 96,
    "layer_types": ["attention"] * 2,
    "position_embedding_type": "rope",
    "mamba_n_heads": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e7},
    "tie_word_embeddings": True,
}
_GRANITE4_HYBRID = {
    **_GRANITE4,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    "position_embedding_type": "nope",
    "mamba_d_head": 16,
    "mamba_d_state": 32,
    "mamba_chunk_size": 16,
    "mamba_n_heads": 8,
    "mamba_expand": 2,
}
_MINISTRAL3 = {
    "head_dim": 48,
    "rope_parameters": {
        "type": "yarn",
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 16.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
    "tie_word_embeddings": False,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_WINDOWS = ["sliding_attention", "full_attention"]
_QWEN3_MOE = {
    "num_hidden_layers": 4,
    "head_dim": 48,
    "mlp_only_layers": [1],
    "decoder_sparse_step": 1,
    "moe_intermediate_size": 32,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
}
_LFM2 = {
    "num_hidden_layers": 4,
    "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    "intermediate_size": 144,
    "block_multiple_of": 32,
    "norm_eps": 1e-4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
_LFM2_MOE = {
    "num_hidden_layers": 4,
    "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    "norm_eps": 1e-4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "moe_intermediate_size": 32,
    "num_dense_layers": 1,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "use_expert_bias": True,
    "routed_scaling_factor": 1.0,
}
_QWEN35 = {
    "num_hidden_layers": 4,
    "head_dim": 64,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e7,
        "partial_rotary_factor": 0.25,
        "mrope_interleaved": True,
        "mrope_section": [3, 3, 2],
    },
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 48,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "rms_norm_eps": 1e-5,
}
_LFM3 = {
    "num_hidden_layers": 5,
    "layer_types": ["conv", "sliding_attention", "conv", "full_attention", "conv"],
    "head_dim": 48,
    "conv_L_cache": 7,
    "conv_bias": True,
    "attention_bias": True,
    "sliding_window": 8,
    "norm_eps": 1e-4,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
    },
}
# The features of E2B: layers with a window and layers without, the last of both kinds without keys and values.
_GEMMA4 = {
    "num_hidden_layers": 7,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2 + ["full_attention"],
    "num_key_value_heads": 1,
    "head_dim": 32,
    "global_head_dim": 64,
    "hidden_size_per_layer_input": 32,
    "vocab_size_per_layer_input": VOCAB,
    "num_kv_shared_layers": 4,
    "use_double_wide_mlp": True,
    "sliding_window": 8,
    "final_logit_softcapping": 30.0,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
    },
    "tie_word_embeddings": True,
}
_MODELS: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": _LLAMA3, "attention_bias": True, "mlp_bias": True},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 48},
    "qwen3_moe": _QWEN3_MOE,
    "qwen3_moe, scores as they are, in every second layer, biases": {
        **_QWEN3_MOE,
        "mlp_only_layers": [],
        "decoder_sparse_step": 2,
        "norm_topk_prob": False,
        "attention_bias": True,
        "tie_word_embeddings": True,
    },
    "gemma3_text": {"head_dim": 48, "query_pre_attn_scalar": 20, "sliding_window": 8, "layer_types": _WINDOWS},
    "phi3": {
        "hidden_size": 256,
        "original_max_position_embeddings": 64,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.75,
            "short_factor": [1.0 + i / 16 for i in range(24)],
            "long_factor": [1.0 + i for i in range(24)],
        },
    },
    "mistral": {"sliding_window": 8},
    "smollm3": {"no_rope_layer_interval": 2, "tie_word_embeddings": True},
    "granite": {**_MULTIPLIERS, "tie_word_embeddings": True},
    "granitemoehybrid": _GRANITE4,
    "granitemoehybrid, with Mamba-2": _GRANITE4_HYBRID,
    "granitemoehybrid, with Mamba-2 and experts": {
        **_GRANITE4_HYBRID,
        "intermediate_size": 32,
        "num_local_experts": 16,
        "num_experts_per_tok": 4,
    },
    "ministral3": _MINISTRAL3,
    "lfm2": _LFM2,
    "lfm2_moe": _LFM2_MOE,
    "lfm2_moe, scaled scores as they are, experts everywhere": {
        **_LFM2_MOE,
        "num_dense_layers": 0,
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.5,
        "use_expert_bias": False,
        "conv_bias": True,
        "tie_word_embeddings": False,
    },
    "lfm3": _LFM3,
    "qwen3_5_text": _QWEN35,
    "qwen3_5_text, one value for each key": {
        **_QWEN35,
        "linear_num_value_heads": 2,
        "attention_bias": True,
        "tie_word_embeddings": True,
    },
    "gemma4_text": _GEMMA4,
    "gemma4_text, all layers with keys and values, biases": {
        **_GEMMA4,
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "num_kv_shared_layers": 0,
        "num_key_value_heads": 2,
        "attention_bias": True,
        "final_logit_softcapping": None,
        "tie_word_embeddings": False,
    },
    **{name: {} for name in ("mistral3", "qwen3_5", "gemma4")},
    **NEMOTRON_H,
}
# Models for text and images, of which the text part is built.
_NESTED: dict[str, dict[str, Any]] = {
    "mistral3": {
        "text_config": {"model_type": "ministral3", **_BASE, **_MINISTRAL3},
        "vision_config": {
            "model_type": "pixtral",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 16,
            "image_size": 32,
            "patch_size": 16,
        },
    },
    "gemma4": {
        "text_config": {"model_type": "gemma4_text", **_BASE, **_GEMMA4},
        "tie_word_embeddings": True,
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 4,
            "position_embedding_size": 16,
        },
        "audio_config": {
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "output_proj_dims": 32,
            "subsampling_conv_channels": [8, 4],
        },
    },
    "qwen3_5": {
        "text_config": {"model_type": "qwen3_5_text", **_BASE, **_QWEN35},
        "vision_config": {
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 128,
            "num_position_embeddings": 16,
        },
    },
}


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Publisher]:
    with Publisher.started(tmp_path_factory.mktemp("publisher") / "stderr") as publisher:
        yield publisher


@pytest.mark.parametrize("architecture", _MODELS)
def test_the_built_graph_equals_transformers_5(architecture: str, publisher: Publisher, tmp_path: Path) -> None:
    rows = [np.random.default_rng(0).integers(3, VOCAB, n) for n in ROW_LENGTHS]
    published, expected = publish(publisher, tmp_path / "published", architecture, rows)
    checkpoint = canonical(published, tmp_path / "checkpoint")
    largest = assert_computes(checkpoint, tmp_path / "built", rows, expected)
    _LOGGER.info("%s: the largest difference is %.1e of the spread", architecture, largest)


@pytest.mark.parametrize(
    "architecture", ["lfm2", "lfm3", "qwen3_5_text", "granitemoehybrid, with Mamba-2", "gemma4_text", "nemotron_h"]
)
def test_a_prompt_gives_the_same_bits_however_it_is_cut(
    architecture: str, publisher: Publisher, tmp_path: Path
) -> None:
    row = np.random.default_rng(0).integers(3, VOCAB, ROW_LENGTHS[0])
    published, _ = publish(publisher, tmp_path / "published", architecture, [row])
    checkpoint = canonical(published, tmp_path / "checkpoint")
    assert_no_cut_changes_a_bit(built_runner(checkpoint, tmp_path / "built"), row)


def publish(publisher: Publisher, folder: Path, model: str, rows: list[np.ndarray]) -> tuple[Path, list[np.ndarray]]:
    """Let transformers 5 write a random model and compute its logits."""
    architecture = model.split(",")[0]
    config = {"model_type": architecture, **_BASE, **_MODELS[model]}
    if architecture in _NESTED:
        config = {"model_type": architecture, "tie_word_embeddings": False, **_NESTED[architecture]}
    publisher.publish(folder, config, is_nested=architecture in _NESTED, rows=rows)
    write_tokenizer(folder)
    with np.load(folder / "logits.npz") as arrays:
        return folder, [arrays[name] for name in arrays.files]
