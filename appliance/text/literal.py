"""A second view of a tokenizer in which the texts of special tokens are ordinary text.

It shares the vocabulary, so it costs a few kilobytes. Special tokens go by secret names here, made anew in every
process: only `name_of` gives one, so no text that was sent to us can hold one.
"""

from __future__ import annotations

import json
import secrets
from functools import cached_property
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import Unigram


class LiteralEncoder:
    """Encodes text whose spellings of special tokens are to stay text; safe to use from several threads."""

    def __init__(self, tokenizer: FastTokenizer) -> None:
        self._main = tokenizer
        self._secret = secrets.token_hex(16)
        self._added: dict[int, AddedToken] = tokenizer.get_added_tokens_decoder()
        self._names = {entry.content: f"q{self._secret}q{token}q" for token, entry in self._added.items()}

    def name_of(self, special: str) -> str:
        """Return the text to write for an intended special token."""
        return self._names[special]

    def encode(self, text: str) -> list[int]:
        """Return ids of the wrapped tokenizer."""
        twin, ids = self._twin
        return [ids.get(token, token) for token in twin.encode(text, add_special_tokens=False).ids]

    @cached_property
    def _twin(self) -> tuple[FastTokenizer, dict[int, int]]:
        """The tokenizer with renamed special tokens, and its ids that differ from the original's."""
        twin = FastTokenizer(self._model_without_specials())
        if self._main.normalizer is not None:
            twin.normalizer = self._main.normalizer
        if self._main.pre_tokenizer is not None:
            twin.pre_tokenizer = self._main.pre_tokenizer
        ids: dict[int, int] = {}
        for token, entry in sorted(self._added.items()):
            name = self._names[entry.content] if entry.special else entry.content
            flags = {key: getattr(entry, key) for key in ("single_word", "lstrip", "rstrip", "normalized")}
            twin.add_tokens([AddedToken(name, special=False, **flags)])
            ids[twin.token_to_id(name)] = token
        return twin, ids

    def _model_without_specials(self) -> Any:
        """Return the shared model, or a copy for the kinds that find a special token's text in their vocabulary."""
        model = self._main.model
        special = {entry.content for entry in self._added.values() if entry.special}
        finds_whole_pieces = isinstance(model, Unigram) or getattr(model, "ignore_merges", False)
        if not finds_whole_pieces or not any(model.token_to_id(text) is not None for text in special):
            return model
        spec = json.loads(self._main.to_str())["model"]
        if isinstance(model, Unigram):
            spec["vocab"] = [[self._names[piece] if piece in special else piece, p] for piece, p in spec["vocab"]]
        else:
            spec["vocab"] = {self._names[piece] if piece in special else piece: i for piece, i in spec["vocab"].items()}
        return FastTokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": spec})).model
