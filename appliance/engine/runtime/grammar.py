"""Grammars over tokens, by llguidance: the tokens that may come next, and those that must.

A constraint is made on any thread, then belongs to the engine thread; compiled grammars are shared as templates.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from appliance.engine.runtime.reasoning import ReasoningConstraint, ReasoningForm, TokenTexts
from appliance.engine.types import Constraint
from appliance.errors import InvalidRequestError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MAX_SCHEMA_BYTES = 1 << 17
_CACHE_SIZE = 64
_MAX_REFUSALS = 1024  # more than the tools of several requests

# Small models write blanks for ever if a schema allows any number of them.
JSON_OPTIONS: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class GrammarConstraint:
    """The place of one sequence in a grammar (engine.types.Constraint)."""

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

    def fast_forward_tokens(self) -> list[int]:
        """Return the tokens that the grammar leaves no choice about, and advance by them."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        if tokens:
            self._matcher.consume_tokens(tokens)
        return tokens

    @property
    def is_complete(self) -> bool:
        """Return True if the grammar allows no further token."""
        return bool(self._matcher.is_stopped())

    @property
    def error(self) -> str | None:
        """Return why the grammar cannot go on, if it failed by its own limits."""
        return str(self._matcher.get_error()) if self._matcher.is_error() else None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The parts of a tokenizer that a grammar needs: the bytes of every id, specials spelled out, and its encoding."""

    token_bytes: Sequence[bytes]
    special_token_ids: Collection[int]
    eos_token_ids: tuple[int, ...]
    encode: Callable[[str], Sequence[int]]


class GrammarCompiler:
    """A compiler of grammars for one vocabulary, with a cache of the last ones; safe on several threads."""

    def __init__(self, vocabulary: Vocabulary, *, vocab_size: int) -> None:
        """Compile for logits of `vocab_size` tokens, which may be padded beyond the vocabulary."""
        wrapper = TokenizerWrapper(_WrappedVocabulary(vocabulary, vocab_size))
        self._tokenizer = LLTokenizer(wrapper, eos_token=list(vocabulary.eos_token_ids))
        self._vocab_size = vocab_size
        self._texts = TokenTexts(tuple(vocabulary.token_bytes), frozenset(vocabulary.special_token_ids))
        self._cache: OrderedDict[str, LLMatcher] = OrderedDict()
        self._refusals: OrderedDict[bytes, str | None] = OrderedDict()
        self._lock = threading.Lock()

    def json_schema(self, schema: Mapping[str, Any], *, param: str) -> GrammarConstraint:
        """Compile a constraint to JSON text that satisfies a schema (JSON Schema draft 2020-12).

        Raises:
            InvalidRequestError: the schema is too large, malformed, or uses a keyword that cannot be enforced.
        """
        text = json.dumps(schema, ensure_ascii=False)
        if len(text) > MAX_SCHEMA_BYTES:
            raise _refused(param, _too_large(text))
        try:
            grammar = LLMatcher.grammar_from_json_schema(text, overrides=JSON_OPTIONS)
        except ValueError as err:
            raise _refused(param, str(err)) from err
        return self._constraint(grammar, param)

    def reasoning(self, form: ReasoningForm, constraint: Constraint | None) -> ReasoningConstraint:
        """Return a constraint to reasoning of this form, and to what follows it."""
        return ReasoningConstraint(constraint, form, self._texts)

    def refusal(self, schema: str) -> str | None:
        """Return why a schema as JSON text cannot be enforced, in one line; None if it can be.

        Options of llguidance come from the schema's `x-guidance`.
        """
        if len(schema) > MAX_SCHEMA_BYTES:
            return _too_large(schema)
        digest = hashlib.sha256(schema.encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            if digest in self._refusals:
                return self._refusals[digest]
        matcher = LLMatcher(self._tokenizer, LLMatcher.grammar_from_json_schema(schema), log_level=0)
        reason = _first_line(matcher.get_error()) if matcher.is_error() else None
        with self._lock:
            self._refusals[digest] = reason
            if len(self._refusals) > _MAX_REFUSALS:
                self._refusals.popitem(last=False)
        return reason

    def lark(self, grammar: str, *, param: str) -> GrammarConstraint:
        """Compile a constraint to a grammar in llguidance's dialect of Lark.

        Raises:
            InvalidRequestError: a part of it, such as a schema within, cannot be enforced.
        """
        return self._constraint(LLMatcher.grammar_from_lark(grammar), param)

    def _constraint(self, grammar: str, param: str) -> GrammarConstraint:
        try:
            template = self._template(grammar)
        except ValueError as err:
            raise _refused(param, str(err)) from err
        with self._lock:
            matcher = template.deep_copy()
        return GrammarConstraint(matcher, self._vocab_size)

    def _template(self, grammar: str) -> LLMatcher:
        """Return the compiled grammar, which is only to be copied.

        Raises:
            ValueError: it cannot be compiled; the message is llguidance's.
        """
        with self._lock:
            template = self._cache.pop(grammar, None)
        if template is None:
            template = LLMatcher(self._tokenizer, grammar, log_level=0)
            if template.is_error():
                raise ValueError(template.get_error())
        with self._lock:
            self._cache[grammar] = template
            if len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)
        return template


class _WrappedVocabulary:
    """A vocabulary in the form that llguidance reads.

    llguidance 1.9.1 gets bytes from here: it would take a tokenizer.json whose decoder names both ByteFallback and
    ByteLevel, as those out of a GGUF do, for plain text. It ignores `n_vocab` beside a vocabulary in this form, so ids
    without a token are filled with empty ones, which no grammar allows.
    """

    def __init__(self, vocabulary: Vocabulary, vocab_size: int) -> None:
        self.eos_token_id = vocabulary.eos_token_ids[0]
        self.bos_token_id = None
        tokens = list(vocabulary.token_bytes[:vocab_size])
        self.tokens = tokens + [b""] * (vocab_size - len(tokens))
        self.special_token_ids = sorted(token for token in vocabulary.special_token_ids if token < vocab_size)
        self._encode = vocabulary.encode

    def __call__(self, text: bytes) -> list[int]:
        return list(self._encode(text.decode()))


def _refused(param: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"Invalid '{param}': {_first_line(reason)}.", param=param, code="invalid_json_schema")


def _first_line(reason: str) -> str:
    """Return what llguidance says in one line; of a pattern it shows the place in the lines between."""
    lines = [line.strip() for line in reason.splitlines() if line.strip(" ^")]
    if len(lines) > 1 and lines[0].startswith("regex parse error"):
        lines = [f"the pattern {lines[1]!r} is not supported ({lines[-1].removeprefix('error: ')})"]
    return lines[0][:400] if lines else "it cannot be enforced"


def _too_large(schema: str) -> str:
    return f"the schema has {len(schema)} bytes; at most {MAX_SCHEMA_BYTES} are taken"
