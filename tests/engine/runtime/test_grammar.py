"""A grammar that is held back until reasoning has ended leaves the reasoning free and binds all that follows.

A limit of the reasoning's tokens closes it, with a grammar behind it or without.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.engine.runtime.grammar import GrammarCompiler, Vocabulary
from appliance.engine.runtime.reasoning import ReasoningConstraint, ReasoningForm

_OPENING, _MARK = b"<think>", b"</think>"
_CROSSING = [b">{", b'nk>\n\n{"', b'</think>{"a"', b"> a"]
_TOKENS = [*(bytes([code]) for code in range(256)), _MARK, b"</think>\n\n", b"</thi", b"nk>\n", *_CROSSING]
_TOKENS += [b"<think>", b"<|hidden|>", b"<end>"]
_HIDDEN, _END = len(_TOKENS) - 2, len(_TOKENS) - 1
_SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
_WHOLE = (_TOKENS.index(_MARK),)
_IN_PARTS = (_TOKENS.index(b"</thi"), *b"nk>")


def constraint(
    *, budget: int | None = None, schema: bool = True, is_open: bool = True, closing: tuple[int, ...] = _WHOLE
) -> ReasoningConstraint:
    vocabulary = Vocabulary(_TOKENS, [_HIDDEN, _END], (_END,), lambda text: list(text.encode()))
    compiler = GrammarCompiler(vocabulary, vocab_size=len(_TOKENS))
    inner = compiler.json_schema(_SCHEMA, param="response_format") if schema else None
    return compiler.reasoning(ReasoningForm(_OPENING, _MARK, closing, is_open, budget), inner)


def allowed(found: ReasoningConstraint) -> set[bytes]:
    logits = np.zeros(len(_TOKENS), np.float32)
    found.apply(logits)
    return {_TOKENS[at] for at in np.flatnonzero(np.isfinite(logits))}


def is_over(found: ReasoningConstraint) -> bool:
    return found.is_complete


def say(found: ReasoningConstraint, *pieces: bytes) -> None:
    for piece in pieces:
        assert piece in allowed(found)
        found.accept(_TOKENS.index(piece))


def check_answer(found: ReasoningConstraint) -> None:
    """The schema holds from here to the end."""
    assert allowed(found) == {b"{"}
    forced = found.fast_forward_tokens()
    assert b"".join(_TOKENS[token] for token in forced) == b'{"a": '
    assert allowed(found) <= {bytes([code]) for code in b"-0123456789"}
    say(found, b"7", b"}")
    assert is_over(found)
    assert found.error is None


@pytest.mark.parametrize("budget", [None, 40])
@pytest.mark.parametrize(
    "end",
    [
        [_MARK],
        [b"</think>\n\n"],
        [b"</thi", b"nk>\n"],
        [bytes([c]) for c in _MARK],
        [b"</thi", b"<|hidden|>", b"nk>\n"],
    ],
)
def test_the_schema_holds_behind_the_mark_however_it_is_cut_into_tokens(end: list[bytes], budget: int | None) -> None:
    found = constraint(budget=budget)
    for piece in [b"{", b"<", b"/", b"t", b"!", *end[:-1]]:
        assert allowed(found) >= {*_TOKENS} - {*_CROSSING}
        assert found.fast_forward_tokens() == []
        found.accept(_TOKENS.index(piece))
    assert not is_over(found)
    found.accept(_TOKENS.index(end[-1]))
    check_answer(found)


def test_no_token_ends_the_mark_and_begins_an_answer_that_the_schema_has_not_seen() -> None:
    found = constraint()
    assert {*_TOKENS} - allowed(found) == {b'</think>{"a"'}
    say(found, b"</thi")
    assert {*_TOKENS} - allowed(found) == {b'nk>\n\n{"', b'</think>{"a"'}
    say(found, b"n", b"k")
    assert {*_TOKENS} - allowed(found) == {b">{", b"> a", b'</think>{"a"'}
    say(found, b">")
    check_answer(found)


def test_without_a_schema_any_token_may_end_the_mark() -> None:
    found = constraint(schema=False, budget=9)
    say(found, b"</thi", b"n", b"k", b">{", *[b"x"] * 20)
    assert allowed(found) == {*_TOKENS}


@pytest.mark.parametrize("closing", [_WHOLE, _IN_PARTS])
@pytest.mark.parametrize("budget", [0, 1, 5])
def test_the_reasoning_is_closed_when_its_budget_is_used(budget: int, closing: tuple[int, ...]) -> None:
    one_by_one, at_once = constraint(budget=budget, closing=closing), constraint(budget=budget, closing=closing)
    for found in (one_by_one, at_once):
        for _ in range(budget):
            assert len(allowed(found)) > 100
            assert found.fast_forward_tokens() == []
            say(found, b"x")
    for token in closing:
        assert allowed(one_by_one) == {_TOKENS[token]}
        one_by_one.accept(token)
    check_answer(one_by_one)
    forced = at_once.fast_forward_tokens()
    assert tuple(forced[: len(closing)]) == closing
    assert b"".join(_TOKENS[token] for token in forced[len(closing) :]) == b'{"a": '


def test_a_limit_holds_without_a_schema_and_leaves_the_answer_free() -> None:
    found = constraint(budget=2, schema=False)
    say(found, b"x", b"</thi")
    assert found.fast_forward_tokens() == list(_WHOLE)
    assert allowed(found) == {*_TOKENS}
    assert found.fast_forward_tokens() == []
    assert not is_over(found)


def test_reasoning_that_ends_by_itself_is_not_closed_again() -> None:
    found = constraint(budget=3, schema=False)
    say(found, b"x", _MARK, *[b"x"] * 9)
    assert allowed(found) == {*_TOKENS}


def test_a_character_that_has_begun_ends_first() -> None:
    found = constraint(budget=1, schema=False)
    for byte in "é".encode():
        assert found.fast_forward_tokens() == []
        say(found, bytes([byte]))
    assert found.fast_forward_tokens() == list(_WHOLE)


def test_characters_that_never_end_are_cut() -> None:
    found = constraint(budget=1, schema=False)
    say(found, *[b"\xf0"] * 4)
    assert allowed(found) == {_MARK}


def test_a_model_that_opens_its_reasoning_itself_is_limited_from_there() -> None:
    found = constraint(budget=2, schema=False, is_open=False)
    say(found, b"\n", b"<", b"think"[:1], *[bytes([c]) for c in b"hink>"], b"x", b"y")
    assert found.fast_forward_tokens() == list(_WHOLE)
    plain = constraint(budget=0, schema=False, is_open=False)
    say(plain, b"N", b"o", b"<think>", b"x")
    assert allowed(plain) == {*_TOKENS}


def test_a_schema_goes_before_a_limit_where_no_reasoning_was_opened() -> None:
    found = constraint(budget=0, is_open=False)
    check_answer(found)


def test_a_vocabulary_that_cannot_write_the_mark_has_no_limit() -> None:
    found = constraint(budget=0, schema=False, closing=(_HIDDEN,))
    assert allowed(found) == {*_TOKENS}
    assert found.fast_forward_tokens() == []


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from([b"<", b"/", b"</thi", b"nk>\n", b"t", b"h", b"i", b"n", b"k", b">", _MARK, b"x"])))
def test_no_text_holds_more_reasoning_than_its_budget(pieces: list[bytes]) -> None:
    found, said, inside = constraint(budget=4, schema=False), b"", 0
    for piece in pieces:
        forced = found.fast_forward_tokens()
        said += b"".join(_TOKENS[token] for token in forced)
        inside += _MARK not in said
        found.accept(_TOKENS.index(piece))
        said += piece
    assert inside <= 4


@pytest.mark.parametrize("padding", [0, 1, 100])
def test_logits_that_are_wider_than_the_vocabulary_are_masked_to_their_end(padding: int) -> None:
    vocabulary = Vocabulary(_TOKENS, [_HIDDEN, _END], (_END,), lambda text: list(text.encode()))
    compiler = GrammarCompiler(vocabulary, vocab_size=len(_TOKENS) + padding)
    logits = np.zeros(len(_TOKENS) + padding, np.float32)
    compiler.json_schema(_SCHEMA, param="response_format").apply(logits)
    assert list(np.flatnonzero(np.isfinite(logits))) == [ord("{")]
