"""The bytes of each token of a vocabulary; pure, computed once for a tokenizer.

Knows GPT-2's byte-level alphabet and SentencePiece's conventions (a blank is U+2581, `<0x0A>` is one byte). Other
vocabularies, such as WordPiece, give the token's own text: they belong to encoders, which generate nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

_BLANK = "\u2581"
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))  # GPT-2's bytes that stand for themselves


@dataclass(frozen=True, slots=True)
class ByteTable:
    """The bytes of every id, and whether a decoder drops one blank in front of the first token."""

    token_bytes: tuple[bytes, ...]
    has_leading_blank: bool


def build_byte_table(spec: Mapping[str, object], vocab: Mapping[str, int], added: Mapping[int, str]) -> ByteTable:
    """Translate a whole vocabulary.

    Args:
        spec: the tokenizer's JSON; only its small parts are read.
        vocab: text -> id, without the added tokens.
        added: id -> text of the added tokens, special ones included: those stand for themselves.
    """
    parts = [p for key in ("decoder", "pre_tokenizer", "normalizer") for p in _components(spec.get(key))]
    types = {part.get("type") for part in parts}
    is_byte_level = "ByteLevel" in types
    is_sentencepiece = not is_byte_level and ("Metaspace" in types or any(_puts_blanks(part) for part in parts))
    to_bytes = _from_byte_level if is_byte_level else _from_sentencepiece if is_sentencepiece else _from_text
    table = [b""] * (max((*vocab.values(), *added), default=-1) + 1)
    for text, token in vocab.items():
        table[token] = to_bytes(text)
    for token, text in added.items():
        table[token] = _from_text(text.replace(_BLANK, " ") if is_sentencepiece else text)
    return ByteTable(tuple(table), is_sentencepiece and _drops_leading_blank(spec))


def _components(node: object) -> Iterator[Mapping[str, object]]:
    """Yield a normalizer, pre-tokenizer or decoder of a tokenizer's JSON, and all parts inside of it."""
    if isinstance(node, dict):
        yield node
        for key in ("decoders", "pretokenizers", "normalizers"):
            for child in node.get(key) or ():
                yield from _components(child)


def _puts_blanks(part: Mapping[str, object]) -> bool:
    pattern = part.get("pattern")
    is_blank = isinstance(pattern, dict) and pattern.get("String") == _BLANK
    return part.get("type") == "Replace" and is_blank and part.get("content") == " "


def _drops_leading_blank(spec: Mapping[str, object]) -> bool:
    for part in _components(spec.get("decoder")):
        if part.get("type") == "Strip" and part.get("content") == " " and part.get("start"):
            return True
        if part.get("type") == "Metaspace":
            return part.get("prepend_scheme", "always") != "never" and part.get("add_prefix_space") is not False
    return False


def _byte_alphabet() -> dict[int, int]:
    others = [byte for byte in range(256) if byte not in _PRINTABLE]
    return {byte: byte for byte in _PRINTABLE} | {256 + n: byte for n, byte in enumerate(others)}


_BYTE_OF_CHARACTER: Mapping[int, int | None] = dict.fromkeys(range(256)) | _byte_alphabet()


def _from_byte_level(text: str) -> bytes:
    try:
        translated = text.translate(_BYTE_OF_CHARACTER).encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
    return translated if len(translated) == len(text) else text.encode()


def _from_sentencepiece(text: str) -> bytes:
    if match := _BYTE_PIECE.fullmatch(text):
        return bytes([int(match[1], 16)])
    return text.replace(_BLANK, " ").encode()


_from_text: Callable[[str], bytes] = str.encode
