"""A drafter that knows what will be said, and is wrong where it likes: drafts of every outcome, at will."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from appliance.engine.drafter import Draft, Drafter


class Prophet(Drafter):
    """Proposes the completions that it was told, by request, some of their tokens replaced."""

    def __init__(self, width: int, completions: Mapping[str, Sequence[int]], *, vocab_size: int, seed: int = 0) -> None:
        super().__init__(width)
        self._most = width - 1
        self._completions = completions
        self._vocab_size = vocab_size
        self._random = random.Random(seed)
        self._begins: dict[str, int] = {}

    def draft(self, request_id: str, tokens: Sequence[int], room: int) -> Draft | None:
        """Propose, most of the time; a draft that is wrong is wrong at any place."""
        begin = self._begins.setdefault(request_id, len(tokens) - 1)
        said = len(tokens) - begin
        right = list(self._completions[request_id][said : said + min(room, self._most)])
        if len(right) < 2 or self._random.random() < 0.2:
            return None
        at = self._random.randrange(2 * len(right))
        if at < len(right):
            right[at] = (right[at] + 1) % self._vocab_size
        return Draft(tuple(right), 3)
