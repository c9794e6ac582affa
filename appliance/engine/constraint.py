"""Grammars over tokens, by llguidance: which tokens may come next, and which have to.

A Constraint is made on any thread, then belongs to the engine thread; compiled grammars are shared as templates.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from appliance.errors import InvalidRequestError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MAX_SCHEMA_BYTES = 1 << 17
_CACHE_SIZE = 64

# Small models lose themselves in blanks where a schema allows any number of them.
JSON_OPTIONS: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Constraint:
    """One sequence's place in a grammar."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._mask = np.zeros((vocab_size + 31) // 32, np.int32)
        self._vocab_size = vocab_size

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Set the logits (V,) of every token that the grammar forbids to minus infinity; in place."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        allowed = np.unpackbits(self._mask.view(np.uint8), count=self._vocab_size, bitorder="little")
        np.copyto(logits, -np.inf, where=allowed == 0)

    def accept(self, token: int) -> None:
        """Advance by a token that was sampled."""
        self._matcher.consume_token(token)

    def forced(self) -> list[int]:
        """The tokens that must follow whatever the model thinks, already accepted."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        if tokens:
            self._matcher.consume_tokens(tokens)
        return tokens

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._matcher.is_stopped())

    @property
    def error(self) -> str | None:
        """Why the grammar cannot go on, where it failed by its own limits."""
        return str(self._matcher.get_error()) if self._matcher.is_error() else None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a grammar has to know of a tokenizer: the bytes of every id, specials spelled out, and its encoding."""

    token_bytes: Sequence[bytes]
    special_token_ids: Collection[int]
    eos_token_ids: tuple[int, ...]
    encode: Callable[[str], Sequence[int]]


class GrammarCompiler:
    """Compiles grammars for one vocabulary, and remembers the last ones; safe on several threads."""

    def __init__(self, vocabulary: Vocabulary, *, vocab_size: int) -> None:
        """`vocab_size`: V of the logits, which may be padded beyond the vocabulary."""
        wrapper = TokenizerWrapper(_WrappedVocabulary(vocabulary))
        self._tokenizer = LLTokenizer(wrapper, n_vocab=vocab_size, eos_token=list(vocabulary.eos_token_ids))
        self._vocab_size = vocab_size
        self._cache: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def json_schema(self, schema: Mapping[str, Any], *, param: str) -> Constraint:
        """A constraint to JSON text that satisfies a schema (JSON Schema draft 2020-12).

        Raises:
            InvalidRequestError: the schema is too large, malformed, or uses a keyword that cannot be enforced.
        """
        text = json.dumps(schema, ensure_ascii=False)
        if len(text) > MAX_SCHEMA_BYTES:
            raise InvalidRequestError(
                f"Invalid '{param}': the schema has {len(text)} bytes; at most {MAX_SCHEMA_BYTES} are taken.",
                param=param,
            )
        try:
            grammar = LLMatcher.grammar_from_json_schema(text, overrides=JSON_OPTIONS)
        except ValueError as err:
            raise _refused(param, str(err)) from err
        return self._constraint(grammar, param)

    def lark(self, grammar: str, *, param: str) -> Constraint:
        """A constraint to a grammar in llguidance's dialect of Lark.

        Raises:
            InvalidRequestError: a part of it, such as a schema within, cannot be enforced.
        """
        return self._constraint(LLMatcher.grammar_from_lark(grammar), param)

    def _constraint(self, grammar: str, param: str) -> Constraint:
        with self._lock:
            template = self._cache.pop(grammar, None)
        if template is None:
            template = LLMatcher(self._tokenizer, grammar, log_level=0)
            if template.is_error():
                raise _refused(param, template.get_error())
        with self._lock:
            self._cache[grammar] = template
            if len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)
            matcher = template.deep_copy()
        return Constraint(matcher, self._vocab_size)


class _WrappedVocabulary:
    """A vocabulary in the form that llguidance reads.

    It gets bytes from us, since its own reading of tokenizer.json takes vocabularies whose decoder names both
    ByteFallback and ByteLevel, as those out of a GGUF do, for plain text (1.9.1).
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = vocabulary.eos_token_ids[0]
        self.bos_token_id = None
        self.tokens = list(vocabulary.token_bytes)
        self.special_token_ids = sorted(vocabulary.special_token_ids)
        self._encode = vocabulary.encode

    def __call__(self, text: bytes) -> list[int]:
        return list(self._encode(text.decode()))


def _refused(param: str, reason: str) -> InvalidRequestError:
    first_line = reason.strip().splitlines()[0][:400] if reason.strip() else "it cannot be enforced"
    return InvalidRequestError(f"Invalid '{param}': {first_line}.", param=param, code="invalid_json_schema")
