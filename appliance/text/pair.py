"""Two texts as one sequence of tokens, the way a model that compares them has learnt it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer


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
