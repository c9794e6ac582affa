"""EmbeddingGemma 2's files around its weights, as its publisher has them."""

from __future__ import annotations

from typing import Any

# The values are the defaults of EmbeddingGemma2Config in transformers 5.24, and those of its program that made the
# published checkpoint; the form is that in which transformers 5.24 writes them. The file itself was not at hand.
_PARTS: dict[str, Any] = {"attention_dropout": 0.0, "dtype": "bfloat16", "initializer_range": 0.02}
EMBEDDING_GEMMA2: dict[str, Any] = {
    "architectures": ["EmbeddingGemma2Model"],
    "audio_config": {"hidden_size": 1024, "model_type": "gemma4_audio", "num_hidden_layers": 12},
    "audio_token_id": 258881, "boa_token_id": 256000, "boi_token_id": 255999, "dtype": "bfloat16",
    "eoa_token_index": 258883, "eoi_token_id": 258882, "image_token_id": 258880, "initializer_range": 0.02,
    "model_type": "embedding_gemma2",
    "text_config": {
        **_PARTS, "attention_bias": False, "bos_token_id": 2, "embedding_dim": 768, "eos_token_id": 1, "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 512, "hidden_size_per_layer_input": 512,
        "intermediate_size": 2048,
        "layer_types": [("full" if (layer + 1) % 6 == 0 else "sliding") + "_attention" for layer in range(24)],
        "max_position_embeddings": 262144, "model_type": "embedding_gemma2_text", "num_attention_heads": 4,
        "num_hidden_layers": 24, "num_key_value_heads": 2, "pad_token_id": 0,
        "per_layer_config": {f"{layer:02}": {"head_dim": 512, "num_key_value_heads": 1} for layer in (5, 11, 17, 23)},
        "rms_norm_eps": 1e-06,
        "rope_parameters": {
            "full_attention": {"rope_theta": 1000000.0, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
        },
        "sliding_window": 512, "vocab_size": 262144,
    },
    "transformers_version": "5.18.0.dev0", "video_token_id": 258884,
    "vision_config": {"hidden_size": 768, "model_type": "gemma4_vision", "num_hidden_layers": 16},
    "vision_soft_tokens_per_image": 280,
}  # fmt: skip
_READ = {"method": "forward", "method_output_name": "last_hidden_state"}
SENTENCE_BERT: dict[str, Any] = {
    "transformer_task": "feature-extraction",
    "modality_config": {
        **dict.fromkeys(("text", "image", "audio", "video"), _READ),
        "message": {**_READ, "format": "structured"},
    },
    "module_output_name": "token_embeddings",
}
POOLING: dict[str, Any] = {"embedding_dimension": 768, "pooling_mode": "mean", "include_prompt": True}
PROMPTS: dict[str, Any] = {
    "__version__": {"sentence_transformers": "6.1.0", "transformers": "5.18.0.dev0"},
    "default_prompt_name": None,
    "model_type": "SentenceTransformer",
    "prompts": {"query": "task: search result | query: ", "document": "title: none | text: "},
    "requirements": {"sentence-transformers": {"specifier": ">=6.1.0"}},
    "similarity_fn_name": "cosine",
}
MODULES: list[dict[str, Any]] = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
    {
        "idx": 1, "name": "1", "path": "1_Pooling",
        "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    },
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.base.modules.normalize.Normalize"},
]  # fmt: skip
# It writes messages one behind the other, those of the system first, as the published one does.
CHAT_TEMPLATE = (
    "{%- for m in messages if m.role == 'system' %}{%- for part in m.content %}{{ part.text }}{% endfor %}"
    "{%- endfor %}{%- for m in messages if m.role != 'system' %}{%- for part in m.content %}{{ part.text }}"
    "{%- endfor %}{%- endfor -%}"
)
_MARKS = (
    "audio",
    "boa",
    "boi",
    "eoa",
    "eoc",
    "eoi",
    "eot",
    "escape",
    "etc",
    "etd",
    "etr",
    "image",
    "soc",
    "sot",
    "stc",
)
TOKENIZER: dict[str, Any] = {
    **{f"{mark}_token": f"<{mark}>" for mark in (*_MARKS, "std", "str", "think", "video")},
    "backend": "tokenizers", "extra_special_tokens": ["<|video|>"], "is_local": True, "local_files_only": False,
    "model_max_length": 10**30, "model_specific_special_tokens": {"think_token": "<think>"}, "padding_side": "right",
    "processor_class": "EmbeddingGemma2Processor", "tokenizer_class": "GemmaTokenizer",
}  # fmt: skip
