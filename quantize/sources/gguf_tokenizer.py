"""The tokenizer within a GGUF file as tokenizer.json: the same cuts, merges and special tokens as in llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from appliance.errors import QuantizeError
from quantize.sources.fields import Fields, shown
from quantize.sources.gguf_header import Gguf
from quantize.sources.templates import chosen_template

_CONTROL, _USER_DEFINED = 3, 4
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
_QWEN = ("qwen2", "deepseek-r1-qwen")
_DIGITS_APART = ("smollm", "refact", "starcoder", "command-r")
_PLAIN = ("gpt-2", "default")
_OF_LLAMA3 = "<|begin_of_text|>"
_BLANK = "▁"
_USED = (
    *("model", "pre", "tokens", "token_type", "scores", "merges", "bos_token_id", "eos_token_id", "add_bos_token"),
    *("add_eos_token", "add_space_prefix", "eot_token_id", "eom_token_id", "unknown_token_id"),
)
_SPECIAL = "the token is among the tokens"
_IGNORED: Mapping[str, str] = {
    **{f"tokenizer.ggml.{name}_token_id": _SPECIAL for name in (
        "padding", "seperator", "separator", "sep", "cls", "mask", "fim_pre", "fim_suf", "fim_mid", "fim_pad",
        "fim_rep", "fim_sep", "prefix", "suffix", "middle",
    )},
    "tokenizer.ggml.add_sep_token": "a prompt is one text",
    "tokenizer.huggingface.json": "the lists of tokens and merges say the same",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """The bytes of tokenizer.json, the chat template, and what was left out with the reason."""

    content: bytes
    chat_template: str | None
    left_out: Mapping[str, str]


def read_gguf_tokenizer(gguf: Gguf, vocab_size: int) -> GgufTokenizer:
    """Make the tokenizer.

    Raises:
        QuantizeError: of a kind that is not known, or with lists that do not fit each other or the vocabulary.
    """
    raw = {name: value for name, value in gguf.metadata.items() if name.startswith("tokenizer.")}
    fields = Fields(raw, gguf.path.name, gguf.architecture)
    template = _template(fields)
    for name in _USED:
        fields.value(f"tokenizer.ggml.{name}")
    for name in ("remove_extra_whitespaces", "precompiled_charsmap"):
        fields.absent(f"tokenizer.ggml.{name}")
    left_out = fields.left_out(_IGNORED)
    tokens = _texts(fields, "tokens")
    if len(tokens) > vocab_size:
        raise QuantizeError(f"{gguf.path.name} has {len(tokens)} tokens, but its embedding has {vocab_size} rows")
    kind = fields.choice("tokenizer.ggml.model", ("gpt2", "llama"))
    tokenizer = _byte_level(fields, tokens) if kind == "gpt2" else _sentencepiece(fields, tokens)
    _add_tokens(tokenizer, fields, tokens)
    _add_opening(tokenizer, fields, tokens, has_bos=_has_bos(fields, kind))
    return GgufTokenizer(tokenizer.to_str(pretty=True).encode(), template, left_out)


def _template(fields: Fields) -> str | None:
    single = fields.value("tokenizer.chat_template")
    fields.value("tokenizer.chat_templates")  # the names of the others
    others = {name.removeprefix("tokenizer.chat_template."): fields.value(name) for name in fields.names()
              if name.startswith("tokenizer.chat_template.")}  # fmt: skip
    if single is not None:
        return chosen_template(single, fields.where)
    return chosen_template(others, fields.where) if others else None


def _texts(fields: Fields, name: str) -> list[str]:
    values = fields.value(f"tokenizer.ggml.{name}")
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise QuantizeError(f"tokenizer.ggml.{name} in {fields.where} is {shown(values)}; a list of texts is needed")
    return values


def _numbers(fields: Fields, name: str, count: int) -> list[Any]:
    values = fields.value(f"tokenizer.ggml.{name}")
    if not isinstance(values, list) or len(values) != count:
        held = len(values) if isinstance(values, list) else "no"
        raise QuantizeError(f"tokenizer.ggml.{name} in {fields.where} has {held} entries for {count} tokens")
    return values


def _byte_level(fields: Fields, tokens: Sequence[str]) -> Tokenizer:
    """Return BPE over bytes, whose cuts tokenizer.ggml.pre names."""
    pre = fields.value("tokenizer.ggml.pre")
    if pre is None:
        if _OF_LLAMA3 in tokens:
            raise fields.missing("tokenizer.ggml.pre", "which says how Llama 3 cuts words")
        pre = _QWEN[0] if fields.family in ("qwen2", "qwen3") else _PLAIN[0]
    merges = []
    vocab = _vocabulary(fields, tokens)
    for merge in _texts(fields, "merges"):
        left, blank, right = merge.partition(" ")
        if not blank or left not in vocab or right not in vocab or left + right not in vocab:
            raise QuantizeError(
                f"tokenizer.ggml.merges in {fields.where} has {shown(merge)}, whose parts are no tokens"
            )
        merges.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=pre in _LLAMA3))
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre in _LLAMA3 or pre in _QWEN:
        words = Regex(_WORDS % ("{1,3}" if pre in _LLAMA3 else ""))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(words, "isolated"), whole])
    elif pre in _DIGITS_APART:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), cut])
    elif pre in _PLAIN:
        tokenizer.pre_tokenizer = cut
    else:
        known = ", ".join((*_PLAIN, *_LLAMA3, *_QWEN, *_DIGITS_APART))
        raise QuantizeError(f"tokenizer.ggml.pre in {fields.where} is {shown(pre)}; known are {known}")
    if pre in _QWEN:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _vocabulary(fields: Fields, tokens: Sequence[str]) -> dict[str, int]:
    vocab = {token: index for index, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        again = next(token for index, token in enumerate(tokens) if vocab[token] != index)
        raise QuantizeError(f"tokenizer.ggml.tokens in {fields.where} has {shown(again)} twice")
    return vocab


def _sentencepiece(fields: Fields, tokens: Sequence[str]) -> Tokenizer:
    """Return the BPE of sentencepiece, which joins the neighbours whose joined token has the best score."""
    scores, vocab = _numbers(fields, "scores", len(tokens)), _vocabulary(fields, tokens)
    kinds = _numbers(fields, "token_type", len(tokens))
    ranked: list[tuple[float, int, int, tuple[str, str]]] = []
    for index, token in enumerate(tokens):
        if kinds[index] not in (1, _USER_DEFINED):
            continue
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            if left in vocab and right in vocab:
                ranked.append((-scores[index], vocab[left], vocab[right], (left, right)))
    ranked.sort()
    unknown = fields.value("tokenizer.ggml.unknown_token_id")
    if unknown is not None:
        fields.check_token("tokenizer.ggml.unknown_token_id", unknown, len(tokens))
    bpe = models.BPE(
        vocab,
        [pair for *_, pair in ranked],
        unk_token=None if unknown is None else tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(bpe)
    has_prefix = fields.flag("tokenizer.ggml.add_space_prefix", True)
    steps = [normalizers.Prepend(_BLANK)] if has_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _BLANK)])
    strip = [decoders.Strip(" ", 1, 0)] if has_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, fields: Fields, tokens: Sequence[str]) -> None:
    """Mark the tokens that are found in a text before it is cut."""
    if not fields.has("tokenizer.ggml.token_type"):
        raise fields.missing("tokenizer.ggml.token_type", "which says which tokens are special")
    kinds = _numbers(fields, "token_type", len(tokens))
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    plain = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in plain])
    if tokenizer.get_vocab_size(with_added_tokens=True) != len(tokens):
        raise QuantizeError(f"tokenizer.ggml.tokens in {fields.where} has special tokens that cannot be added")


def _has_bos(fields: Fields, kind: str) -> bool:
    """Return llama.cpp's rule where the file says nothing."""
    return kind == "llama" or fields.value("tokenizer.ggml.pre") in _LLAMA3


def _add_opening(tokenizer: Tokenizer, fields: Fields, tokens: Sequence[str], *, has_bos: bool) -> None:
    """Let every text begin and end as the file says."""
    if not fields.has("tokenizer.ggml.eos_token_id"):
        raise fields.missing("tokenizer.ggml.eos_token_id", "the token that ends a text")
    if not fields.has("tokenizer.ggml.bos_token_id") and fields.value("tokenizer.ggml.add_bos_token") is not False:
        raise fields.missing("tokenizer.ggml.bos_token_id", "the token that begins a text")
    ends = {}
    for name, default in (("bos", has_bos), ("eos", False)):
        index = fields.value(f"tokenizer.ggml.{name}_token_id")
        if index is not None:
            fields.check_token(f"tokenizer.ggml.{name}_token_id", index, len(tokens))
        is_added = fields.flag(f"tokenizer.ggml.add_{name}_token", default)
        ends[name] = tokens[index] if is_added else None
    if not any(ends.values()):
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        return
    bos, eos = ([token] if token else [] for token in (ends["bos"], ends["eos"]))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*bos, "$A", *eos],
        pair=[*bos, "$A", *eos, *(f"{token}:1" for token in bos), "$B:1", *(f"{token}:1" for token in eos)],
        special_tokens=[(token, tokens.index(token)) for token in {*bos, *eos}],
    )
