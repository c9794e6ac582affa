"""Text to tokens and back to bytes, on any thread: nothing here changes after it is built.

Owns the promise that text sent by a user never becomes a special token. Refuses to know templates, limits and models:
encoding takes time in proportion to the text, but to its square within one long word, so callers cap the characters
first and encode off the event loop.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import BPE

from appliance.bundle.manifest import RerankPrompt
from appliance.errors import BundleError
from appliance.text.literal import LiteralEncoder
from appliance.text.pair import FramedPairing, PairFrame, Pairing, PromptedPairing
from appliance.text.prompt import RenderedPrompt
from appliance.text.specials import SpecialSpellings
from appliance.text.token_bytes import ByteTable, build_byte_table

_RARE_TEXT = "a \u0378\U000f0000"  # a word, an unassigned character, and one for private use
_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """One model's vocabulary. A 2 MB text that is a single word takes seconds: see the module."""

    def __init__(self, data: bytes) -> None:
        """Build from the content of a tokenizer.json; its truncation and padding are left out.

        Raises:
            BundleError: damaged, or not a tokenizer.
        """
        self._tokenizer, spec = _build(data)
        added = self._tokenizer.get_added_tokens_decoder()
        self._added: dict[int, str] = {token: entry.content for token, entry in added.items()}
        specials = {entry.content: token for token, entry in sorted(added.items()) if entry.special}
        self.special_tokens: Mapping[str, int] = MappingProxyType(specials)
        self._special_ids = frozenset(specials.values())
        self._spellings = SpecialSpellings(specials)
        self._literal = LiteralEncoder(self._tokenizer)
        # A special token that is matched after normalization has spellings that no search of the raw text finds.
        self._always_literal = any(entry.special and entry.normalized for entry in added.values())
        self._components = {key: spec.get(key) for key in ("decoder", "pre_tokenizer", "normalizer")}
        self._prefix, self._suffix = self._post_processor_ids()

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """Read a tokenizer.json.

        Raises:
            BundleError: the file is missing, damaged, or not a tokenizer.
        """
        try:
            data = path.read_bytes()
        except OSError as err:
            raise BundleError(f"{path.name} cannot be read ({err.strerror}); copy the bundle again") from err
        return cls(data)

    def encode(self, text: str, *, bos_id: int | None = None) -> tuple[int, ...]:
        """Encode what a user wrote: no part of it becomes a special token, and no token of a template is added.

        Args:
            text: any text; half of a surrogate pair, which JSON can carry, counts as U+FFFD.
            bos_id: the token to put in front, where the model wants one.
        """
        ids = self._encode_user_text(_whole_characters(text))
        return tuple(ids) if bos_id is None else (bos_id, *ids)

    def encode_rendered(self, prompt: RenderedPrompt) -> tuple[int, ...]:
        """Encode a rendered chat: the template's special tokens become tokens, the user's spellings stay text.

        Where no user spelled one, this is one plain encoding of the whole text.
        """
        text = _whole_characters(prompt.text)
        if not prompt.user_spans and not self._always_literal:
            return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
        kept = set(prompt.user_spans)
        pieces: list[str] = []
        done = 0
        for start, end in self._spellings.spans(text):
            if (start, end) not in kept:
                pieces += text[done:start], self._literal.name_of(text[start:end])
                done = end
        pieces.append(text[done:])
        return tuple(self._literal.encode("".join(pieces)))

    def encode_framed(self, text: str) -> tuple[int, ...]:
        """Encode a user's text with the tokens that the vocabulary's own post-processor puts around it."""
        return (*self._prefix, *self._encode_user_text(_whole_characters(text)), *self._suffix)

    def cut(self, tokens: Sequence[int], limit: int) -> tuple[int, ...]:
        """Return at most `limit` tokens of a text; the post-processor's tokens behind it stay, if it has any."""
        if len(tokens) <= limit:
            return tuple(tokens)
        num_kept = len(self._suffix)
        if num_kept >= limit or tuple(tokens[len(tokens) - num_kept :]) != self._suffix:
            return tuple(tokens[:limit])
        return (*tokens[: limit - num_kept], *self._suffix)

    @cached_property
    def pair_frame(self) -> PairFrame:
        """The tokens that the vocabulary's own post-processor puts around two texts."""
        return PairFrame.of(self._tokenizer)

    def pairing(self, query: str, prompt: RerankPrompt | None = None, *, instruction: str | None = None) -> Pairing:
        """Return a query that is to be read with documents: as one of two texts, or within a prompt."""
        if prompt is None:
            return FramedPairing(self.pair_frame, self.encode(query), self.encode)
        return PromptedPairing.of(prompt, query, self.encode, self._encode_fixed, instruction)

    def _encode_fixed(self, text: str) -> tuple[int, ...]:
        """Encode a text of the bundle, whose special tokens become tokens."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def token_bytes(self, token: int) -> bytes:
        """Return the exact bytes that a token adds to the text; empty for a special token or an id without a token."""
        vocabulary = self._byte_table.token_bytes
        if token in self._special_ids or not 0 <= token < len(vocabulary):
            return b""
        return vocabulary[token]

    @property
    def vocabulary_bytes(self) -> tuple[bytes, ...]:
        """The bytes of every id below `vocab_size`, special tokens spelled out, as a grammar compiler wants them."""
        return self._byte_table.token_bytes

    @property
    def has_leading_blank(self) -> bool:
        """True if the vocabulary puts a blank in front of every text, which decoding takes away again."""
        return self._byte_table.has_leading_blank

    @property
    def vocab_size(self) -> int:
        """One more than the largest id; a model's logits may be padded beyond it."""
        return len(self.vocabulary_bytes)

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of all special tokens."""
        return self._special_ids

    def is_special(self, token: int) -> bool:
        """Tell if a token stands for no text."""
        return token in self._special_ids

    def token_id(self, text: str) -> int | None:
        """Return the id of a token by its text in the vocabulary, special or not."""
        found: int | None = self._tokenizer.token_to_id(text)
        return found

    def _encode_user_text(self, text: str) -> list[int]:
        if self._always_literal or self._spellings.occurs_in(text):
            return self._literal.encode(text)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    @cached_property
    def _byte_table(self) -> ByteTable:
        return build_byte_table(self._components, self._tokenizer.get_vocab(with_added_tokens=False), self._added)

    def _post_processor_ids(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        encoding = self._tokenizer.encode("a", add_special_tokens=True)
        bare = len(self._tokenizer.encode("a", add_special_tokens=False).ids)
        mask: list[int] = encoding.special_tokens_mask
        first = mask.index(0) if 0 in mask else len(mask)
        return tuple(encoding.ids[:first]), tuple(encoding.ids[first + bare :])


def _build(data: bytes) -> tuple[FastTokenizer, dict[str, Any]]:
    """Build the tokenizer from its JSON; return both.

    Some byte-level vocabularies lack a few control bytes and name the end of the text as their unknown token: without
    an unknown token such a byte is left out, instead of ending the text.
    """
    try:
        spec = json.loads(data)
        tokenizer = FastTokenizer.from_buffer(data)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        special = {entry["content"] for entry in spec["added_tokens"] if entry["special"]}
        if isinstance(tokenizer.model, BPE) and tokenizer.model.unk_token in special:
            tokenizer.model.unk_token = None
        tokenizer.encode(_RARE_TEXT)  # a vocabulary without its unknown token fails at such a text, in a request
    except Exception as err:  # tokenizers 0.22 raises nothing narrower
        reason = (str(err).splitlines() or [""])[0][:200]
        raise BundleError(f"the tokenizer cannot be built ({reason}); copy the bundle again") from err
    return tokenizer, spec


def _whole_characters(text: str) -> str:
    """Replace halves of surrogate pairs one for one, so that places stay; tokenizers 0.22 refuses a text with any."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)
