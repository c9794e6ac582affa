"""Texts of a wanted length: the same seed gives the same text, another seed one with another beginning.

Measuring a prompt twice would measure a prefix cache; so every run draws its own words.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

# Common words: nearly every vocabulary has each of them as one token.
_NOUN_LIST = (
    "house river garden window table street winter summer mountain forest island bridge market village harbor train "
    "letter paper story picture music doctor teacher farmer sailor mother brother friend child animal horse bird fish "
    "apple bread water fire stone metal glass engine machine paint light shadow morning evening road field school "
    "church castle tower door floor roof wall chair bed book page word number color sound voice hand face heart"
)
_ADJECTIVE_LIST = (
    "small large old young red green blue white black dark bright warm cold quiet loud quick slow heavy strong simple"
)
_VERB_LIST = "found saw made kept took left built sold moved opened closed carried painted followed watched held"
_NOUNS, _ADJECTIVES, _VERBS = _NOUN_LIST.split(), _ADJECTIVE_LIST.split(), _VERB_LIST.split()
_WORDS = (*_NOUNS, *_ADJECTIVES, *_VERBS)


@dataclass(frozen=True, slots=True)
class TokenRate:
    """The number of tokens in a chat prompt of so many words, measured on one server."""

    tokens_per_word: float
    overhead: float

    @classmethod
    def of(cls, short: tuple[int, int], long: tuple[int, int]) -> TokenRate:
        """Derive the rate from two prompts, each (words, tokens)."""
        rate = max((long[1] - short[1]) / (long[0] - short[0]), 0.1)
        return cls(rate, short[1] - rate * short[0])

    def words_for(self, num_tokens: int) -> int:
        """Return the words of a prompt of about this many tokens; at least one."""
        return max(round((num_tokens - self.overhead) / self.tokens_per_word), 1)


def words(num_words: int, *seed: object) -> str:
    """Return words in no order, as of one long list."""
    generator = _generator(*seed)
    return " ".join(_WORDS[i] for i in generator.integers(len(_WORDS), size=num_words))


def sentences(num_words: int, *seed: object) -> str:
    """Plain sentences of together at least `num_words` words, each unlike the others."""
    generator = _generator(*seed)
    parts: list[str] = []
    while sum(len(p.split()) for p in parts) < num_words:
        a, b, c = (_NOUNS[i] for i in generator.integers(len(_NOUNS), size=3))
        d, e = (_ADJECTIVES[i] for i in generator.integers(len(_ADJECTIVES), size=2))
        verb = _VERBS[generator.integers(len(_VERBS))]
        parts.append(f"The {d} {a} {verb} the {e} {b} near the {c}.")
    return " ".join(parts)


def lengths(num_texts: int, shortest: int, longest: int, *seed: object) -> list[int]:
    """Return numbers of words as a folder of documents has them: many short, few long."""
    generator = _generator(*seed)
    spread = generator.random(num_texts) ** 2
    return [int(n) for n in shortest + (longest - shortest) * spread]


def _generator(*seed: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(seed).encode()))
