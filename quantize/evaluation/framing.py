"""Texts in tokens as the model was trained to see them: after the tokens with which its vocabulary begins every text.

A device encodes prompts by the same rule, the tokenizer's own post-processor; Gemma is lost without its <bos>.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Tokens = NDArray[np.int64]


def opening(tokenizer: Tokenizer) -> list[int]:
    """Return the tokens that come before every text; many models have none."""
    encoding = tokenizer.encode("a", add_special_tokens=True)
    mask: list[int] = encoding.special_tokens_mask
    ids: list[int] = encoding.ids
    return ids[: mask.index(0)] if 0 in mask else []


def windows_of(
    tokenizer: Tokenizer, text: str, *, length: int, count: int, vocab_size: int, spread: bool = False
) -> list[Tokens]:
    """Cut at most `count` windows of a text, each of `length` tokens, the opening included.

    They follow one another, or with `spread` lie evenly over the text. Random models may have fewer tokens than their
    tokenizer, hence the vocabulary's size.
    """
    first = np.asarray(opening(tokenizer), np.int64)[: length - 1]
    ids = np.asarray(tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
    body = length - len(first)
    count = min(count, len(ids) // body)
    step = len(ids) // max(1, count) if spread else body
    return [np.concatenate([first, ids[at * step : at * step + body]]) % vocab_size for at in range(count)]
