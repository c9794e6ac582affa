"""Random checkpoints of models that the workstation's transformers does not know: tensors by their shapes alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from quantize.sources.census import decoder_shapes
from quantize.sources.decoder_keys import read_decoder_keys
from quantize.sources.nemotron import published_name
from quantize.sources.tensors import TensorWriter
from tests.quantize.tiny import VOCAB, write_tokenizer

NEWER_DECODERS: dict[str, dict[str, Any]] = {
    "gemma4_text": {
        "architectures": ["Gemma4ForCausalLM"],
        "attention_bias": False,
        "attention_k_eq_v": False,
        "bos_token_id": 1,
        "enable_moe_block": False,
        "eos_token_id": 0,
        "final_logit_softcapping": 20.0,
        "global_head_dim": 64,
        "head_dim": 32,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 64,
        "hidden_size_per_layer_input": 32,
        "intermediate_size": 96,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "max_position_embeddings": 256,
        "moe_intermediate_size": None,
        "num_attention_heads": 4,
        "num_experts": None,
        "num_hidden_layers": 4,
        "num_key_value_heads": 1,
        "num_kv_shared_layers": 2,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
        },
        "sliding_window": 8,
        "tie_word_embeddings": True,
        "top_k_experts": None,
        "use_bidirectional_attention": None,
        "use_double_wide_mlp": True,
        "vocab_size": VOCAB,
        "vocab_size_per_layer_input": VOCAB,
    },
    "lfm2_moe": {
        "architectures": ["Lfm2MoeForCausalLM"],
        "bos_token_id": 1,
        "conv_L_cache": 3,
        "conv_bias": False,
        "eos_token_id": 0,
        "hidden_size": 64,
        "intermediate_size": 96,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "max_position_embeddings": 256,
        "moe_intermediate_size": 32,
        "norm_eps": 1e-4,
        "norm_topk_prob": True,
        "num_attention_heads": 4,
        "num_dense_layers": 1,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "rope_theta": 1e6,
        "routed_scaling_factor": 1.0,
        "tie_word_embeddings": True,
        "use_expert_bias": True,
        "vocab_size": VOCAB,
    },
    "lfm3": {
        "architectures": ["Lfm3ForCausalLM"],
        "attention_bias": True,
        "bos_token_id": 1,
        "conv_L_cache": 7,
        "conv_bias": False,
        "eos_token_id": 0,
        "head_dim": 32,
        "hidden_size": 64,
        "intermediate_size": 96,
        "layer_types": ["conv", "sliding_attention", "conv", "full_attention"],
        "max_position_embeddings": 256,
        "norm_eps": 1e-4,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
        },
        "sliding_window": 8,
        "tie_word_embeddings": True,
        "use_attention_gate": True,
        "use_sandwich_norm": True,
        "vocab_size": VOCAB,
    },
    "nemotron_h": {
        "architectures": ["NemotronHForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "chunk_size": 16,
        "conv_kernel": 4,
        "eos_token_id": 0,
        "expand": 2,
        "head_dim": 32,
        "hidden_size": 64,
        "hybrid_override_pattern": "M-MM*-M-",
        "intermediate_size": 96,
        "layer_norm_epsilon": 1e-5,
        "mamba_head_dim": 24,
        "mamba_hidden_act": "silu",
        "mamba_num_heads": 8,
        "mamba_proj_bias": False,
        "max_position_embeddings": 256,
        "mlp_bias": True,
        "mlp_hidden_act": "relu2",
        "n_groups": 2,
        "num_attention_heads": 4,
        "num_hidden_layers": 8,
        "num_key_value_heads": 2,
        "residual_in_fp32": False,
        "sliding_window": None,
        "ssm_state_size": 32,
        "tie_word_embeddings": False,
        "time_step_limit": [0.0, float("inf")],
        "time_step_min": 0.001,
        "use_bias": True,
        "use_conv_bias": True,
        "vocab_size": VOCAB,
    },
    "qwen3_5_text": {
        "architectures": ["Qwen3_5ForCausalLM"],
        "attention_bias": False,
        "attn_output_gate": True,
        "bos_token_id": 1,
        "eos_token_id": 0,
        "full_attention_interval": 2,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 96,
        "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_value_head_dim": 24,
        "max_position_embeddings": 256,
        "mtp_num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "partial_rotary_factor": 0.25,
            "mrope_section": [3, 3, 2],
        },
        "tie_word_embeddings": False,
        "vocab_size": VOCAB,
    },
}


def write_newer(folder: Path, architecture: str, **changes: Any) -> Path:
    """Write a causal model with random weights that are large enough to matter, and its tokenizer."""
    folder.mkdir()
    config = {"model_type": architecture, **NEWER_DECODERS[architecture], **changes}
    (folder / "config.json").write_text(json.dumps(config))
    ends = {name: config[name] for name in ("bos_token_id", "eos_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    rng, shapes = np.random.default_rng(0), decoder_shapes(read_decoder_keys(config).config)
    if architecture == "nemotron_h":
        shapes = {published_name(name): shape for name, shape in shapes.items()}
    with TensorWriter(folder / "model.safetensors", shapes) as writer:
        for name, shape in shapes.items():
            values = rng.standard_normal(shape) * (0.1 if len(shape) == 1 else 1.5 * shape[-1] ** -0.5)
            if name.endswith("linear_attn.norm.weight") or (
                "norm" in name and architecture in ("lfm2_moe", "lfm3", "gemma4_text", "nemotron_h")
            ):
                values += 1
            elif name.endswith("layer_scalar"):
                values += 0.8
            writer.write(name, values.astype(np.float32))
    write_tokenizer(folder)
    return folder
