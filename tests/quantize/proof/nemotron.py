"""Random Nemotron-H models with the features of the published ones, by the names of the proofs."""

from __future__ import annotations

from typing import Any

_BASE: dict[str, Any] = {
    "hidden_size": 64,
    "layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention", "linear_attention", "mlp"],
    "num_hidden_layers": 6,
    "head_dim": 32,
    "mamba_num_heads": 8,
    "mamba_head_dim": 24,
    "ssm_state_size": 32,
    "n_groups": 2,
    "chunk_size": 16,
}
NEMOTRON_H: dict[str, dict[str, Any]] = {
    "nemotron_h": _BASE,
    # transformers 5.24 takes the least step from time_step_min (huggingface/transformers#48989), here the same number.
    "nemotron_h, an MLP first, biases, limited steps, one group": {
        **_BASE,
        "layers_block_type": ["mlp", "full_attention", "linear_attention", "mlp", "full_attention", "mlp"],
        "mlp_bias": True,
        "use_bias": True,
        "n_groups": 1,
        "time_step_min": 0.6,
        "time_step_limit": [0.6, 1e9],
    },
    "nemotron_h, limited steps, a group for each head, no bias at all": {
        **_BASE,
        "layers_block_type": ["full_attention", "linear_attention", "linear_attention", "mlp"],
        "num_hidden_layers": 4,
        "n_groups": 8,
        "use_conv_bias": False,
        "time_step_min": 0.6,
        "time_step_limit": [0.6, float("inf")],
    },
}
