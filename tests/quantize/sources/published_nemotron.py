"""Nemotron 3 Nano's configuration, as its publisher and as transformers 5 write it."""

from __future__ import annotations

from typing import Any

# By public descriptions of the file and the file of its larger sister; this one itself was not at hand.
NEMOTRON_3_NANO: dict[str, Any] = {
    "architectures": ["NemotronHForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_nemotron_h.NemotronHConfig"}, "bos_token_id": 1, "chunk_size": 256,
    "conv_kernel": 4, "eos_token_id": 2, "expand": 2, "head_dim": 128, "hidden_dropout": 0.0, "hidden_size": 3136,
    "hybrid_override_pattern": "M-M-M-MM-M-M*-M-M*-M-M-M*-M-M-MM*-MMM-M-M-", "initializer_range": 0.02,
    "intermediate_size": 12544, "layer_norm_epsilon": 1e-05, "mamba_head_dim": 80, "mamba_hidden_act": "silu",
    "mamba_num_heads": 96, "mamba_proj_bias": False, "mamba_ssm_cache_dtype": "float32",
    "max_position_embeddings": 262144, "mlp_bias": False, "mlp_hidden_act": "relu2", "model_type": "nemotron_h",
    "n_groups": 8, "norm_eps": 1e-05, "num_attention_heads": 40, "num_hidden_layers": 42, "num_key_value_heads": 8,
    "num_logits_to_keep": 1, "pad_token_id": 0, "partial_rotary_factor": 1.0, "rescale_prenorm_residual": True,
    "residual_in_fp32": False, "rms_norm_eps": 1e-05, "rope_theta": 10000, "sliding_window": None,
    "ssm_state_size": 128, "tie_word_embeddings": False, "time_step_floor": 0.0001, "time_step_max": 0.1,
    "time_step_min": 0.001, "torch_dtype": "bfloat16", "transformers_version": "4.55.4", "use_bias": False,
    "use_cache": True, "use_conv_bias": True, "use_mamba_kernels": True, "vocab_size": 131072,
}  # fmt: skip
# As transformers 5.24 writes it, experts that no layer has included.
BY_TRANSFORMERS_5: dict[str, Any] = {
    **{
        name: value for name, value in NEMOTRON_3_NANO.items()
        if name not in ("auto_map", "hybrid_override_pattern", "norm_eps", "num_hidden_layers", "partial_rotary_factor",
                        "rms_norm_eps", "rope_theta", "torch_dtype")
    },
    "dtype": "bfloat16",
    "layers_block_type": [
        {"M": "linear_attention", "*": "full_attention", "-": "mlp"}[kind]
        for kind in NEMOTRON_3_NANO["hybrid_override_pattern"]
    ],
    "moe_intermediate_size": 7688, "moe_latent_size": None, "moe_shared_expert_intermediate_size": 7688,
    "moe_shared_expert_overlap": True, "mtp_layers_block_type": ["full_attention", "moe"], "n_group": 1,
    "n_routed_experts": 8, "n_shared_experts": 1, "norm_topk_prob": True, "num_experts_per_tok": 2,
    "num_nextn_predict_layers": 0, "output_router_logits": False, "routed_scaling_factor": 1.0,
    "time_step_limit": [0.0, {"__float__": "Infinity"}], "topk_group": 1, "transformers_version": "5.24.0",
}  # fmt: skip
