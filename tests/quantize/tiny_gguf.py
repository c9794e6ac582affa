"""A GGUF file of a random llama with its tokenizer, and damage to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from quantize.quiet import quiet
from tests.quantize.tiny import SPECIALS, VOCAB, write_tokenizer

_HIDDEN, _WIDE, _LAYERS, _HEADS, _KV_HEADS = 64, 96, 2, 4, 2
_UNKNOWN_TYPE = 250


def write_gguf(path: Path) -> Path:
    """Write a GGUF file with float weights, the llama architecture and a byte-level vocabulary."""
    with quiet():
        import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(_LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(_HIDDEN)
    writer.add_feed_forward_length(_WIDE)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(_HIDDEN // _HEADS)
    writer.add_vocab_size(VOCAB)
    _add_tokenizer(writer, path.parent)
    rng = np.random.default_rng(0)
    for name, shape in _shapes().items():
        values = rng.normal(1 if "norm" in name else 0, 0.1, shape)
        writer.add_tensor(name, np.asarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def with_unknown_type(path: Path) -> Path:
    """Write the same file with a tensor of a type that does not exist."""
    raw = bytearray(path.read_bytes())
    name = b"blk.1.ffn_down.weight"
    at = raw.index(name) + len(name)
    num_dims = int.from_bytes(raw[at : at + 4], "little")
    at += 4 + 8 * num_dims
    assert raw[at : at + 4] == b"\0\0\0\0"  # float32
    raw[at : at + 4] = _UNKNOWN_TYPE.to_bytes(4, "little")
    path.write_bytes(bytes(raw))
    return path


def _shapes() -> dict[str, tuple[int, ...]]:
    kv = _HIDDEN // _HEADS * _KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (VOCAB, _HIDDEN), "output_norm.weight": (_HIDDEN,)}
    for layer in range(_LAYERS):
        block = f"blk.{layer}"
        shapes |= {f"{block}.{name}_norm.weight": (_HIDDEN,) for name in ("attn", "ffn")}
        shapes |= {
            f"{block}.attn_{part}.weight": (rows, _HIDDEN) for part, rows in (("q", _HIDDEN), ("k", kv), ("v", kv))
        }
        shapes[f"{block}.attn_output.weight"] = (_HIDDEN, _HIDDEN)
        shapes |= {f"{block}.ffn_{part}.weight": (_WIDE, _HIDDEN) for part in ("gate", "up")}
        shapes[f"{block}.ffn_down.weight"] = (_HIDDEN, _WIDE)
    return shapes


def _add_tokenizer(writer: object, folder: Path) -> None:
    import gguf

    assert isinstance(writer, gguf.GGUFWriter)
    write_tokenizer(folder)
    raw = json.loads((folder / "tokenizer.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    tokens = [tokenizer.id_to_token(token) or f"<unused{token}>" for token in range(VOCAB)]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in raw["model"]["merges"]])
    kinds = [gguf.TokenType.CONTROL if token in SPECIALS else gguf.TokenType.NORMAL for token in tokens]
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
