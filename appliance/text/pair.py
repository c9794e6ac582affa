"""Two texts as one sequence of tokens, the way a model that compares them has learnt it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tokenizers import Tokenizer

from appliance.bundle.manifest import RerankPrompt

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PairFrame:
    """The special tokens before, between and after two texts; of those between, the first belong to the first text."""

    prefix: tuple[int, ...]
    between: tuple[int, ...]
    suffix: tuple[int, ...]
    num_between_in_first: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> PairFrame:
        """Read it off the encoding of two short texts."""
        encoding = tokenizer.encode("a", "a", add_special_tokens=True)
        owners: list[int | None] = encoding.sequence_ids
        first = [i for i, owner in enumerate(owners) if owner == 0]
        second = [i for i, owner in enumerate(owners) if owner == 1]
        middle = slice(first[-1] + 1, second[0])
        return cls(
            prefix=tuple(encoding.ids[: first[0]]),
            between=tuple(encoding.ids[middle]),
            suffix=tuple(encoding.ids[second[-1] + 1 :]),
            num_between_in_first=encoding.type_ids[middle].count(0),
        )

    @property
    def num_tokens(self) -> int:
        """Special tokens of a pair."""
        return len(self.prefix) + len(self.between) + len(self.suffix)

    def room_beside(self, first: Sequence[int], limit: int) -> int:
        """Return the number of tokens left for the second text of a pair of at most `limit`; not positive for none."""
        return limit - self.num_tokens - len(first)

    def join(self, first: Sequence[int], second: Sequence[int]) -> tuple[tuple[int, ...], int]:
        """Return the whole sequence and the index at which its second segment starts."""
        start = len(self.prefix) + len(first) + self.num_between_in_first
        return (*self.prefix, *first, *self.between, *second, *self.suffix), start


class Pairing(Protocol):
    """One query, to be read with documents."""

    @property
    def num_query_tokens(self) -> int:
        """The tokens of the query, and of the text around it."""

    def room(self, limit: int) -> int:
        """Return the number of tokens left for a document of a sequence of at most `limit`; not positive for none."""

    def encode(self, document: str) -> Tokens:
        """Return the tokens of a document as they follow the query."""

    def join(self, document: Sequence[int]) -> tuple[Tokens, int]:
        """Return the whole sequence and the index at which its second segment starts."""


@dataclass(frozen=True, slots=True)
class FramedPairing:
    """A query that a cross-encoder reads as the first of two texts."""

    frame: PairFrame
    query: Tokens
    encode: Callable[[str], Tokens]

    @property
    def num_query_tokens(self) -> int:
        """The tokens of the query."""
        return len(self.query)

    def room(self, limit: int) -> int:
        """Return the number of tokens left for the document."""
        return self.frame.room_beside(self.query, limit)

    def join(self, document: Sequence[int]) -> tuple[Tokens, int]:
        """Return both texts with the special tokens around them."""
        return self.frame.join(self.query, document)


@dataclass(frozen=True, slots=True)
class PromptedPairing:
    """A query within a prompt, whose text goes on with the document: both are encoded as one text."""

    before: Tokens
    after: Tokens
    head: str
    head_tokens: Tokens
    encode_text: Callable[[str], Tokens]

    @classmethod
    def of(
        cls,
        prompt: RerankPrompt,
        query: str,
        encode_text: Callable[[str], Tokens],
        encode_fixed: Callable[[str], Tokens],
        instruction: str | None = None,
    ) -> PromptedPairing:
        """Put a query into the prompt; `encode_fixed` knows special tokens, `encode_text` none."""
        head, _, rest = prompt.text.removesuffix("{document}").partition("{query}")
        told = prompt.instruction if instruction is None else instruction
        head, rest = (part.replace("{instruction}", told) for part in (head, rest))
        text = f"{head}{query}{rest}"
        # A blank before the document belongs to the document's first token.
        tokens = encode_text(text.rstrip(" "))
        return cls(encode_fixed(prompt.before), encode_fixed(prompt.after), text, tokens, encode_text)

    @property
    def num_query_tokens(self) -> int:
        """The tokens of the text before the document."""
        return len(self.head_tokens)

    def room(self, limit: int) -> int:
        """Return the number of tokens left for the document."""
        return limit - len(self.before) - len(self.head_tokens) - len(self.after)

    def encode(self, document: str) -> Tokens:
        """Return the tokens of a document behind the query; one that would join the query's last token starts anew."""
        whole = self.encode_text(self.head + document)
        count = len(self.head_tokens)
        return whole[count:] if whole[:count] == self.head_tokens else self.encode_text(document)

    def join(self, document: Sequence[int]) -> tuple[Tokens, int]:
        """Return the whole prompt; there is no second segment."""
        tokens = (*self.before, *self.head_tokens, *document, *self.after)
        return tokens, len(tokens)
