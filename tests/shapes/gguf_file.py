"""A random model of a shape as a GGUF file, with the metadata that llama.cpp reads for its architecture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantize.quiet import quiet
from quantize.sources.census import decoder_shapes
from quantize.sources.decoder_keys import read_decoder_keys

if TYPE_CHECKING:
    from gguf import GGUFWriter

Keys = Mapping[str, Any]

_ARCHITECTURES = {"lfm2": "lfm2", "qwen3_5_text": "qwen35", "llama": "llama"}
_BYTES = 256


def write_gguf(path: Path, config: Keys, *, context: int) -> Path:
    """Write the tensors of a configuration's shapes in float16, vectors in float32, under llama.cpp's names."""
    with quiet():
        import gguf

    keys = read_decoder_keys(dict(config)).config
    name = _ARCHITECTURES[keys["model_type"]]
    writer = gguf.GGUFWriter(str(path), name)
    _common(writer, keys, context)
    {"lfm2": _lfm2, "qwen35": _qwen35, "llama": _llama}[name](writer, keys)
    _tokenizer(writer, keys["vocab_size"])
    arch = next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    names = gguf.get_tensor_name_map(arch, keys["num_hidden_layers"])
    rng = np.random.default_rng(0)
    for ours, shape in decoder_shapes(keys).items():
        if ours.endswith("dt_bias"):
            theirs = f"blk.{ours.split('.')[2]}.ssm_dt.bias"
        else:
            theirs = names.get_name(ours, try_suffixes=(".weight", ".bias"))
            assert theirs is not None, ours
        writer.add_tensor(theirs, _values(theirs, tuple(n for n in shape if n > 1 or len(shape) < 3), rng))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if len(shape) == 1:
        begin = -1.0 if name.endswith("ssm_a") else 1.0 if "norm" in name else 0.0
        return (begin + 0.02 * rng.standard_normal(shape)).astype(np.float32)
    values = rng.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5)
    return values if "conv" in name else values.astype(np.float16)


def _common(writer: GGUFWriter, keys: Keys, context: int) -> None:
    writer.add_block_count(keys["num_hidden_layers"])
    writer.add_context_length(context)
    writer.add_embedding_length(keys["hidden_size"])
    writer.add_feed_forward_length(keys["intermediate_size"])
    writer.add_head_count(keys["num_attention_heads"])
    writer.add_vocab_size(keys["vocab_size"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e6)


def _llama(writer: GGUFWriter, keys: Keys) -> None:
    writer.add_head_count_kv(keys["num_key_value_heads"])
    writer.add_rope_dimension_count(keys["head_dim"])


def _lfm2(writer: GGUFWriter, keys: Keys) -> None:
    kinds = keys["layer_types"]
    writer.add_head_count_kv([keys["num_key_value_heads"] if kind == "full_attention" else 0 for kind in kinds])
    writer.add_shortconv_l_cache(keys["conv_L_cache"])


def _qwen35(writer: GGUFWriter, keys: Keys) -> None:
    writer.add_head_count_kv(keys["num_key_value_heads"])
    writer.add_key_length(keys["head_dim"])
    writer.add_value_length(keys["head_dim"])
    writer.add_rope_dimension_count(keys["head_dim"] // 4)
    writer.add_rope_dimension_sections([11, 11, 10, 0])
    writer.add_ssm_conv_kernel(keys["linear_conv_kernel_dim"])
    writer.add_ssm_inner_size(keys["linear_num_value_heads"] * keys["linear_value_head_dim"])
    writer.add_ssm_state_size(keys["linear_key_head_dim"])
    writer.add_ssm_time_step_rank(keys["linear_num_value_heads"])
    writer.add_ssm_group_count(keys["linear_num_key_heads"])
    interval = next(i for i, kind in enumerate(keys["layer_types"], 1) if kind == "full_attention")
    writer.add_uint32("qwen35.full_attention_interval", interval)


def _tokenizer(writer: GGUFWriter, size: int) -> None:
    """Add bytes, and names without a meaning for the other tokens; nothing is read or written as text."""
    letters = [chr(256 + byte) for byte in range(_BYTES)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*letters, *(f"<{i}>" for i in range(size - _BYTES))])
    writer.add_token_types([1] * size)
    writer.add_token_merges([f"{letters[0]} {letters[1]}"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
