"""Keys of published configurations that do not change what a model computes, each with the reason.

One table for every file, and one for what only some families have. A key that is in no table and is not read stops
the build.
"""

from __future__ import annotations

from collections.abc import Mapping

_ORIGIN = "tells where the checkpoint comes from"
_TRAINING = "only training uses it"
_STORAGE = "the weights' own types are read from their files"
_RUNTIME = "tells another program how to run the model"
_OUTPUT = "chooses what a Python call returns"
_GENERATION = "an old place for sampling defaults; generation_config.json has them"
_TOKENS = "tokenizer.json has the special tokens"
_TASK = "describes a task head that is not part of the graph"

COMMON: Mapping[str, str] = {
    "_name_or_path": _ORIGIN,
    "_commit_hash": _ORIGIN,
    "_attn_implementation": _RUNTIME,
    "_attn_implementation_autoset": _RUNTIME,
    "_attn_implementation_internal": _RUNTIME,
    "_experts_implementation": _RUNTIME,
    "_model_name_or_path": _ORIGIN,
    "name_or_path": _ORIGIN,
    "model_name": _ORIGIN,
    "language": _ORIGIN,
    "license": _ORIGIN,
    "transformers_version": "is the version that wrote the file",
    "unsloth_fixed": _ORIGIN,
    "unsloth_version": _ORIGIN,
    "auto_map": "names Python code of the checkpoint, which is never run",
    "custom_pipelines": "names Python code of the checkpoint, which is never run",
    "torch_dtype": _STORAGE,
    "dtype": _STORAGE,
    "use_bfloat16": _STORAGE,
    "attn_implementation": _RUNTIME,
    "use_cache": _RUNTIME,
    "use_flash_attn": _RUNTIME,
    "torchscript": _RUNTIME,
    "gradient_checkpointing": _TRAINING,
    "initializer_range": _TRAINING,
    "initializer_cutoff_factor": _TRAINING,
    "attention_dropout": _TRAINING,
    "hidden_dropout": _TRAINING,
    "attention_probs_dropout_prob": _TRAINING,
    "hidden_dropout_prob": _TRAINING,
    "embd_pdrop": _TRAINING,
    "resid_pdrop": _TRAINING,
    "attn_pdrop": _TRAINING,
    "classifier_dropout": _TRAINING,
    "tf_legacy_loss": _TRAINING,
    "output_attentions": _OUTPUT,
    "output_hidden_states": _OUTPUT,
    "return_dict": _OUTPUT,
    "chunk_size_feed_forward": "cuts the same computation into pieces",
    "pretraining_tp": "cuts the same computation into pieces",
    "transformers.js_config": _RUNTIME,
    "tokenizer_class": _TOKENS,
    "pad_token_id": "no graph reads padding",
    "sep_token_id": _TOKENS,
    "cls_token_id": _TOKENS,
    "mask_token_id": _TOKENS,
    "unk_token_id": _TOKENS,
    "decoder_start_token_id": _TOKENS,
    "prefix": _GENERATION,
    "problem_type": _TASK,
    "finetuning_task": _TASK,
    "task_specific_params": _TASK,
    "id2label": _TASK,
    "label2id": _TASK,
    "num_labels": _TASK,
    "bad_words_ids": _GENERATION,
    "do_sample": _GENERATION,
    "temperature": _GENERATION,
    "top_p": _GENERATION,
    "top_k": _GENERATION,
    "max_length": _GENERATION,
    "min_length": _GENERATION,
    "repetition_penalty": _GENERATION,
    "length_penalty": _GENERATION,
    "num_beams": _GENERATION,
    "num_return_sequences": _GENERATION,
    "no_repeat_ngram_size": _GENERATION,
    "early_stopping": _GENERATION,
    "typical_p": _GENERATION,
}

# Keys that would change the computation; absent, null, false or zero is the only form that is known.
MUST_BE_EMPTY: tuple[str, ...] = (
    "is_encoder_decoder",
    "add_cross_attention",
    "cross_attention_hidden_size",
    "tie_encoder_decoder",
    "pruned_heads",
    "final_logit_softcapping",
    "attn_logit_softcapping",
    "num_local_experts",
    "num_experts",
    "rope_interleaved",
    "use_bidirectional_attention",
    "use_mrope",
    "use_qk_norm",
    "layerdrop",
    "encoder_layerdrop",
)

_WINDOW = "layer_types says which layers have the window"
_DRAFTS = "layers that draft further tokens are left out"
_NO_MAMBA = "no layer is of Mamba's kind"
_NO_EXPERTS = "no layer has experts"
_MOE = (
    *("moe_intermediate_size", "moe_latent_size", "moe_shared_expert_intermediate_size", "moe_shared_expert_overlap"),
    *("n_group", "n_routed_experts", "n_shared_experts", "norm_topk_prob", "num_experts_per_tok"),
    *("routed_scaling_factor", "topk_group"),
)
_MTP = ("num_nextn_predict_layers", "mtp_layers_block_type", "mtp_hybrid_override_pattern")
_NO_POSITIONS = "its attention has no positions"
_STEPS = "only training draws the first steps from it; time_step_limit has their limits"
_MAMBA = ("chunk_size", "conv_bias", "d_conv", "d_head", "d_state", "expand", "n_groups", "n_heads", "proj_bias")

DECODERS: Mapping[str, Mapping[str, str]] = {
    "llama": {"is_llama_config": _ORIGIN},
    "qwen2": {"max_window_layers": _WINDOW},
    "qwen3": {"max_window_layers": _WINDOW},
    "qwen3_moe": {
        "max_window_layers": _WINDOW,
        "router_aux_loss_coef": _TRAINING,
        "output_router_logits": _OUTPUT,
    },
    "gemma3_text": {
        "_sliding_window_pattern": _WINDOW,
        "cache_implementation": _RUNTIME,
    },
    "phi3": {
        "original_max_position_embeddings": "only longrope reads it",
        "interpolate_factor": _TRAINING,
    },
    "mistral": {},
    "ministral3": {},
    "smollm3": {
        "max_window_layers": _WINDOW,
        "no_rope_layer_interval": "no_rope_layers says which layers have positions",
    },
    "granite": {},
    "granitemoehybrid": {
        **{f"mamba_{name}": _NO_MAMBA for name in _MAMBA},
        **{f"time_step_{name}": _NO_MAMBA for name in ("floor", "limit", "max", "min")},
        "init_method": _TRAINING,
        "router_aux_loss_coef": _TRAINING,
        "output_router_logits": _OUTPUT,
    },
    "qwen3_5_text": {
        **{f"mtp_{name}": _DRAFTS for name in ("num_hidden_layers", "use_dedicated_embeddings")},
    },
    "lfm3": {},
    "lfm2_moe": {"router_aux_loss_coef": _TRAINING, "output_router_logits": _OUTPUT},
    "gemma4_text": {},
    "embedding_gemma2_text": {},
    "nemotron_h": {
        "chunk_size": "cuts the same computation into pieces",
        "expand": "mamba_num_heads and mamba_head_dim say the width",
        "mamba_proj_bias": "use_bias says which products of Mamba-2 have a bias",
        "mamba_ssm_cache_dtype": "states are float32",
        "residual_in_fp32": "all sums are float32",
        "rescale_prenorm_residual": _TRAINING,
        "num_logits_to_keep": _RUNTIME,
        "use_mamba_kernels": _RUNTIME,
        **dict.fromkeys(("rope_theta", "partial_rotary_factor"), _NO_POSITIONS),
        **{f"time_step_{name}": _STEPS for name in ("floor", "max", "min", "rank")},
        **dict.fromkeys(_MOE, _NO_EXPERTS),
        "output_router_logits": _OUTPUT,
        **dict.fromkeys(_MTP, _DRAFTS),
    },
    "lfm2": {
        **{f"block_{name}": _TRAINING for name in ("mlp_init_scale", "out_init_scale", "use_xavier_init")},
        "conv_use_xavier_init": _TRAINING,
    },
}

_VISION = "images are not read"
_GEMMA3: Mapping[str, str] = {
    "vision_config": _VISION,
    "mm_tokens_per_image": _VISION,
    "boi_token_index": _VISION,
    "eoi_token_index": _VISION,
    "image_token_index": _VISION,
    "boi_token_id": _VISION,
    "eoi_token_id": _VISION,
    "image_token_id": _VISION,
}

_MISTRAL3: Mapping[str, str] = {
    "vision_config": _VISION,
    "image_token_index": _VISION,
    "image_token_id": _VISION,
    "projector_hidden_act": _VISION,
    "multimodal_projector_bias": _VISION,
    "spatial_merge_size": _VISION,
    "vision_feature_layer": _VISION,
}

_QWEN35: Mapping[str, str] = {
    "vision_config": _VISION,
    "image_token_id": _VISION,
    "video_token_id": _VISION,
    "vision_start_token_id": _VISION,
    "vision_end_token_id": _VISION,
    "language_model_only": _VISION,
}

_SOUND = "sound is not read"
_GEMMA4: Mapping[str, str] = {
    **dict.fromkeys(("vision_config", "boi_token_id", "eoi_token_id", "image_token_id", "video_token_id"), _VISION),
    "vision_soft_tokens_per_image": _VISION,
    **dict.fromkeys(("audio_config", "boa_token_id", "eoa_token_id", "eoa_token_index", "audio_token_id"), _SOUND),
}

# By the outer model's type.
IMAGES: Mapping[str, Mapping[str, str]] = {
    "gemma3": _GEMMA3,
    "mistral3": _MISTRAL3,
    "qwen3_5": _QWEN35,
    "gemma4": _GEMMA4,
    "embedding_gemma2": _GEMMA4,
}

_MLM = "describes the head that predicts masked tokens, which is not part of the graph"
_POOLER = "describes the pooler, which is not part of the graph"

ENCODERS: Mapping[str, Mapping[str, str]] = {
    "bert": {
        "directionality": _ORIGIN,
        "pooler_fc_size": _POOLER,
        "pooler_num_attention_heads": _POOLER,
        "pooler_num_fc_layers": _POOLER,
        "pooler_size_per_head": _POOLER,
        "pooler_type": _POOLER,
        "model_max_length": "sentence_bert_config.json and the tokenizer have it",
    },
    "roberta": {"output_past": _OUTPUT},
    "xlm-roberta": {"output_past": _OUTPUT},
    "mpnet": {},
    "nomic_bert": {
        "fused_bias_fc": _RUNTIME,
        "fused_dropout_add_ln": _RUNTIME,
        "dense_seq_output": _RUNTIME,
        "use_xentropy": _TRAINING,
        "pad_vocab_size_multiple": "vocab_size is padded already",
        "last_layer_subset": _RUNTIME,
        "mlp_fc1_bias": "the tensors say which products have a bias",
        "mlp_fc2_bias": "the tensors say which products have a bias",
        "qkv_proj_bias": "the tensors say which products have a bias",
        "tie_word_embeddings": _MLM,
        "summary_activation": _TASK,
        "summary_first_dropout": _TRAINING,
        "summary_proj_to_labels": _TASK,
        "summary_type": _TASK,
        "summary_use_proj": _TASK,
        "max_trained_positions": "only scaled positions read it",
        "initializer_range": _TRAINING,
    },
    "modernbert": {
        "decoder_bias": _MLM,
        "sparse_prediction": _MLM,
        "sparse_pred_ignore_index": _TRAINING,
        "embedding_dropout": _TRAINING,
        "mlp_dropout": _TRAINING,
        "deterministic_flash_attn": _RUNTIME,
        "reference_compile": _RUNTIME,
        "repad_logits_with_grad": _TRAINING,
        "position_embedding_type": "positions are always rotary",
        "layer_norm_eps": "norm_eps is what the layers read",
    },
}
_TEXT = "a text encoder keeps no cache and writes no tokens"
ENCODER_COMMON: Mapping[str, str] = {"bos_token_id": _TEXT, "eos_token_id": _TEXT, "tie_word_embeddings": _MLM}
