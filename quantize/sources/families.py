"""The differences between families of causal models: classes, parts that not all have, values that files leave out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "mistral": "MistralForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "granite": "GraniteForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
    "ministral3": "Ministral3ForCausalLM",
    "lfm2": "Lfm2ForCausalLM",
    "lfm2_moe": "Lfm2MoeForCausalLM",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
    "lfm3": "Lfm3ForCausalLM",
    "gemma4_text": "Gemma4ForCausalLM",
    "nemotron_h": "NemotronHForCausalLM",
    "embedding_gemma2_text": "EmbeddingGemma2TextModel",
}
DECODERS = frozenset(CLASSES)
BODIES = frozenset({"embedding_gemma2_text"})  # that have no head
# That the workstation's transformers cannot load.
NEWER_THAN_TORCH = frozenset({"qwen3_5_text", "lfm2_moe", "lfm3", "gemma4_text", "nemotron_h", "embedding_gemma2_text"})
# Models for more than text, and their text part.
NESTED = {
    "gemma3": "gemma3_text",
    "mistral3": "ministral3",
    "qwen3_5": "qwen3_5_text",
    "gemma4": "gemma4_text",
    "embedding_gemma2": "embedding_gemma2_text",
}
GRANITE = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")
TIED_BY_DEFAULT = frozenset({"gemma3_text", "gemma4_text", "smollm3"}) | BODIES
ATTENTION_BIAS = frozenset(
    {
        "llama",
        "qwen3",
        "qwen3_moe",
        "gemma3_text",
        "gemma4_text",
        "embedding_gemma2_text",
        "smollm3",
        "granite",
        "granitemoehybrid",
        "qwen3_5_text",
        "lfm3",
    }
)
MLP_BIAS = frozenset({"llama", "smollm3", "granite", "nemotron_h"})
LIQUID = frozenset({"lfm2", "lfm2_moe", "lfm3"})
GEMMA = frozenset({"gemma3_text", "gemma4_text", "embedding_gemma2_text"})
TWO_BASES = GEMMA | {"lfm3"}  # of positions: in layers with a window, and in all others
OWN_WINDOWS = frozenset({"lfm3", "gemma4_text", "embedding_gemma2_text", "qwen3_moe"})  # which are among their own keys
BIDIRECTIONAL = "use_bidirectional_attention"
COUNTS_OF_EXPERTS = {"num_experts", "num_local_experts"}
OWN_EMPTY = {  # that the family reads itself
    "gemma4_text": {"final_logit_softcapping", "use_bidirectional_attention"},
    "qwen3_moe": COUNTS_OF_EXPERTS,
    "lfm2_moe": COUNTS_OF_EXPERTS,
    "granitemoehybrid": {"num_local_experts"},
}
HEAD_DIMS = {
    "qwen3": 128,
    "gemma3_text": 256,
    "ministral3": 128,
    "qwen3_5_text": 256,
    "gemma4_text": 256,
    "embedding_gemma2_text": 256,
    "nemotron_h": 128,
}  # where the configuration names none
# The family's configuration always has `rope_scaling`: since when transformers writes it. Some never have.
SCALING_SINCE = {
    "qwen2": (4, 45),
    "phi3": (4, 0),
    "mistral": None,
    "ministral3": None,
    "lfm2": None,
    "lfm2_moe": None,
    "qwen3_5_text": None,
    "lfm3": None,
    "gemma4_text": None,
    "embedding_gemma2_text": None,
}
PARTIAL = frozenset({"phi3", "qwen3_5_text"})  # of each head a part turns
PARTIAL_SINCE = (4, 49)  # transformers writes Phi-3's
# Of the nested form of Gemma 3, whose publisher leaves out what transformers has as default.
GEMMA3_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "query_pre_attn_scalar": 256,
    "rope_scaling": None,
    "sliding_window_pattern": 6,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
