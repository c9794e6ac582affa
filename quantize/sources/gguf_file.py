"""A GGUF file becomes a float32 checkpoint folder with its tokenizer; each key and each tensor is used or refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.bundle.manifest import CHAT_TEMPLATE_NAME, TOKENIZER_NAME
from appliance.errors import QuantizeError
from quantize.sources.census import EMBEDDING, HEAD, decoder_shapes
from quantize.sources.decoder_keys import read_decoder_keys
from quantize.sources.gguf_config import ROPE_FACTORS, gguf_config
from quantize.sources.gguf_header import Gguf, GgufTensor, read_gguf
from quantize.sources.gguf_tokenizer import GgufTokenizer, read_gguf_tokenizer
from quantize.sources.prepare import write_config, write_json
from quantize.sources.tensors import TensorWriter

_PERMUTED = frozenset({"llama", "smollm3", "granite"})  # rows of q and k lie in pairs there
_OUTER = {EMBEDDING: "token_embd.weight", HEAD: "output.weight", "model.norm.weight": "output_norm.weight"}
_INNER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up",
}
_INNER_GEMMA3 = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


@dataclass(frozen=True, slots=True)
class GgufCheckpoint:
    """A GGUF model: the canonical config.json, its tensors by canonical names, its tokenizer, and what was left out."""

    config: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    tokenizer: GgufTokenizer
    left_out: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ConvertedTensor:
    """A tensor of a GGUF file in transformers' form, by its canonical name."""

    name: str
    stored: GgufTensor
    config: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, which conversion keeps."""
        return self.stored.shape

    def slabs(self, num_rows: int) -> Iterator[NDArray[np.float32]]:
        """Return its rows in order; at once where rows change their places."""
        is_whole = _is_permuted(self.name, self.config)
        for values in self.stored.slabs(self.shape[0] if is_whole else num_rows):
            yield converted(self.name, values, self.config)


def read_gguf_checkpoint(path: Path) -> GgufCheckpoint:
    """Read and check the metadata and the tensor list, and make the tokenizer.

    Raises:
        QuantizeError: naming the key or the tensor that stands in the way.
    """
    gguf = read_gguf(path)
    raw, left_out, defaulted = gguf_config(gguf)
    keys = read_decoder_keys(raw, gguf.path.name)
    tokenizer = read_gguf_tokenizer(gguf, keys.config["vocab_size"])
    left_out |= tokenizer.left_out
    return GgufCheckpoint(keys.config, _matched(gguf, keys.config, defaulted), tokenizer, left_out)


def read_gguf_tensors(path: Path) -> tuple[Mapping[str, Any], dict[str, GgufTensor]]:
    """Return the canonical config.json, and the tensors by their canonical names.

    Raises:
        QuantizeError: naming the key or the tensor that stands in the way.
    """
    gguf = read_gguf(path)
    raw, _, defaulted = gguf_config(gguf)
    config = read_decoder_keys(raw, gguf.path.name).config
    return config, _matched(gguf, config, defaulted)


def dequantize(path: Path, target: Path, *, copies: bool = True) -> None:
    """Write config.json, the tokenizer's files and, with `copies`, the weights as model.safetensors.

    Raises:
        QuantizeError: truncated, or with a key, tensor or type that is not known.
    """
    found = read_gguf_checkpoint(path)
    write_gguf_checkpoint(found, target)
    if copies:
        write_gguf_weights(found, target)


def write_gguf_checkpoint(found: GgufCheckpoint, target: Path) -> None:
    """Fill an empty folder with all but the weights."""
    config = found.config
    write_config(target, config)
    (target / TOKENIZER_NAME).write_bytes(found.tokenizer.content)
    write_json(target / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    if found.tokenizer.chat_template is not None:
        (target / CHAT_TEMPLATE_NAME).write_text(found.tokenizer.chat_template, encoding="utf-8")


def write_gguf_weights(found: GgufCheckpoint, target: Path) -> None:
    """Write the weights as float32, one tensor at a time."""
    shapes = {name: tensor.shape for name, tensor in found.tensors.items()}
    with TensorWriter(target / "model.safetensors", shapes) as writer:
        for name, tensor in found.tensors.items():
            writer.write(name, converted(name, tensor.load(), found.config))


def converted(name: str, values: NDArray[np.float32], config: Mapping[str, Any]) -> NDArray[np.float32]:
    """Return a tensor in transformers' form: q and k with their halves apart, Gemma's norms around zero."""
    family = config["model_type"]
    if family == "gemma3_text" and name.endswith("norm.weight"):
        return values - np.float32(1)
    if _is_permuted(name, config):
        heads = config["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"]
        paired = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
        return paired.swapaxes(2, 1).reshape(values.shape)
    return values


def _is_permuted(name: str, config: Mapping[str, Any]) -> bool:
    return config["model_type"] in _PERMUTED and (".q_proj." in name or ".k_proj." in name)


def gguf_name(name: str, family: str) -> str:
    """Return the name that a tensor has in a GGUF file."""
    if name in _OUTER:
        return _OUTER[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    part, _, ending = rest.rpartition(".")
    inner = {**_INNER, **_INNER_GEMMA3} if family == "gemma3_text" else _INNER
    return f"blk.{layer}.{inner[part]}.{ending}"


def _matched(gguf: Gguf, config: Mapping[str, Any], defaulted: Sequence[str]) -> dict[str, GgufTensor]:
    family, file = config["model_type"], gguf.path.name
    hint = f" (they have no {', '.join(defaulted)})" if defaulted else ""
    left = {name: tensor for name, tensor in gguf.tensors.items() if name not in ROPE_FACTORS}
    found: dict[str, GgufTensor] = {}
    missing: list[str] = []
    for name, shape in decoder_shapes(config).items():
        stored = gguf_name(name, family)
        tensor = left.pop(stored, None)
        if tensor is None:
            missing.append(stored)
        elif tensor.shape != shape:
            raise QuantizeError(
                f"{stored} in {file} has the shape {list(tensor.shape)}, but its metadata say {list(shape)}{hint}"
            )
        else:
            found[name] = tensor
    if left:
        lacking = f", and {missing[0]} is missing" if missing else ""
        raise QuantizeError(
            f"{next(iter(left))} in {file} is no part of the {family} that its metadata describe{hint}{lacking}"
        )
    if missing:
        raise QuantizeError(f"{file} has no {missing[0]}, which {family} needs; copy or download it again")
    return found
