"""Small real tokenizers, made when the tests run."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as FastTokenizer

from appliance.text.tokenizer import Tokenizer

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_LINES = [
    "The lantern stands on the shelf and waits for a question.",
    "She sells sea shells; the shells she sells are surely seashells.",
    "def main(argv):\n    return 0 if argv else 1\n",
    "Schöne Grüße aus Köln, 你好世界, привет мир 🎉",
]


def byte_level_tokenizer() -> FastTokenizer:
    tokenizer = FastTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_LINES * 3, trainer)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    return tokenizer


def sentencepiece_tokenizer() -> FastTokenizer:
    """Llama's conventions: a blank in front of every text, bytes for characters that are not in the vocabulary."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [*"abcdefghijklmnopqrstuvwxyz", "▁t", "he", "▁the", "in", "er"]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("i", "n"), ("e", "r")]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = FastTokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    return tokenizer


def wordpiece_tokenizer() -> FastTokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "world", "##s", "[", "]", "sep", "cls"]
    vocab = {word: index for index, word in enumerate(words)}
    tokenizer = FastTokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(words[:4])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16)
    return tokenizer


@pytest.fixture(scope="session")
def oracle() -> FastTokenizer:
    """The library's own view of the byte-level vocabulary."""
    return byte_level_tokenizer()


@pytest.fixture(scope="session")
def byte_level(oracle: FastTokenizer) -> Tokenizer:
    return Tokenizer(oracle.to_str().encode())


@pytest.fixture(scope="session")
def sentencepiece() -> Tokenizer:
    return Tokenizer(sentencepiece_tokenizer().to_str().encode())


@pytest.fixture(scope="session")
def wordpiece() -> Tokenizer:
    return Tokenizer(wordpiece_tokenizer().to_str().encode())


@pytest.fixture(scope="session")
def unigram() -> Tokenizer:
    """A kind that finds a special token's text in its vocabulary, whatever it is told about special tokens."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -1.0), *((letter, -2.0) for letter in "abcs<>/")]
    tokenizer = FastTokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return Tokenizer(tokenizer.to_str().encode())


@pytest.fixture(scope="session")
def ignoring_merges() -> Tokenizer:
    """A kind that takes a whole word from the vocabulary without merging."""
    vocab = {"<s>": 0, "<": 1, "s": 2, ">": 3, "a": 4}
    tokenizer = FastTokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.add_special_tokens(["<s>"])
    return Tokenizer(tokenizer.to_str().encode())


@pytest.fixture(scope="session")
def altered(oracle: FastTokenizer) -> Callable[..., Tokenizer]:
    """The byte-level tokenizer with changes to its JSON."""

    def build(**changes: object) -> Tokenizer:
        return Tokenizer(json.dumps(json.loads(oracle.to_str()) | changes).encode())

    return build
