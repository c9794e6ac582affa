"""Keys of tokenizer_config.json that do not change how a text becomes tokens here, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping

_TEXT = "tokenizer.json has the special tokens"
_STATE = "tokenizer.json says it"
_PYTHON = "only the Python form of the tokenizer reads it"
_LENGTH = "the engine cuts and pads by itself"
_ORIGIN = "tells where the file comes from"
_PROMPT = "the chat template writes the prompt"

# true would change what a text becomes, which tokenizer.json cannot say.
MUST_BE_EMPTY: tuple[str, ...] = ("split_special_tokens", "add_eos_token_to_prompt")

IGNORED: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token", "eot_token",
            "additional_special_tokens", "extra_special_tokens", "added_tokens_decoder", "image_token", "boi_token",
            "eoi_token", "audio_token", "video_token", "vision_bos_token", "vision_eos_token", "bos_token_id",
            "eos_token_id", "pad_token_id", "eod_id", "im_start_id", "im_end_id", "model_specific_special_tokens",
            "special_tokens_map_file", "special_tokens", "boa_token", "eoa_token", "eoc_token", "soc_token",
            "sot_token", "escape_token", "stc_token", "etc_token", "std_token", "etd_token", "str_token", "etr_token",
            "think_token",
        ),
        _TEXT,
    ),
    **dict.fromkeys(
        (
            "add_bos_token", "add_eos_token", "add_prefix_space", "do_lower_case", "strip_accents", "legacy",
            "tokenize_chinese_chars", "clean_up_tokenization_spaces", "clean_text", "trim_offsets", "from_slow",
            "lowercase", "add_dummy_prefix", "continuing_subword_prefix", "handle_chinese_chars", "wordpieces_prefix",
        ),
        _STATE,
    ),
    **dict.fromkeys(
        (
            "sp_model_kwargs", "do_basic_tokenize", "never_split", "use_fast", "errors", "use_default_system_prompt",
            "spaces_between_special_tokens", "vocab_file", "merges_file", "tokenizer_file", "keep_accents",
            "auto_map", "processor_class", "backend", "is_local", "local_files_only", "use_default_chat_template",
            "fix_mistral_regex", "vocab_size", "mode",
        ),
        _PYTHON,
    ),
    **dict.fromkeys(
        (
            "max_length", "max_len", "padding", "padding_side", "truncation", "truncation_side", "truncation_strategy",
            "stride", "pad_to_multiple_of", "pad_token_type_id", "padding_strategy", "model_input_names",
            "return_token_type_ids", "add_special_tokens",
        ),
        _LENGTH,
    ),
    **dict.fromkeys(
        ("name_or_path", "_name_or_path", "transformers_version", "_commit_hash", "language", "license", "name",
         "full_tokenizer_file", "unsloth_version"),
        _ORIGIN,
    ),
    **dict.fromkeys(("default_system_prompt", "response_schema", "tool_parser_type", "reasoning_parser"), _PROMPT),
}  # fmt: skip
