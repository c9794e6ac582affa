from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer

from appliance.text.detokenizer import Detokenizer, StopStrings
from appliance.text.tokenizer import Tokenizer
from tests.steps import count_calls

_STOPS = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3)


@settings(deadline=None, max_examples=300)
@given(st.text())
def test_any_text_survives_encoding_and_streaming(byte_level: Tokenizer, text: str) -> None:
    assert _streamed(Detokenizer(byte_level), byte_level.encode(text)) == text


@settings(deadline=None, max_examples=300)
@given(st.text().map(lambda text: text.replace("\u2581", "")))
def test_any_text_survives_a_vocabulary_with_blanks_and_byte_pieces(sentencepiece: Tokenizer, text: str) -> None:
    assert _streamed(Detokenizer(sentencepiece), sentencepiece.encode(text)) == text


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(0, 499)))
def test_any_tokens_read_like_the_library_reads_them_at_once(
    byte_level: Tokenizer, oracle: FastTokenizer, tokens: list[int]
) -> None:
    assert _streamed(Detokenizer(byte_level), tokens) == oracle.decode(tokens, skip_special_tokens=True)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.text(alphabet="abc\n", max_size=3)), _STOPS)
def test_a_stop_string_never_leaks_however_the_text_is_cut(pieces: list[str], stop: list[str]) -> None:
    streamed, at_once, by_character = StopStrings(stop), StopStrings(stop), StopStrings(stop)
    text = "".join(pieces)
    shown = "".join(map(streamed.push, pieces)) + streamed.finish()
    assert shown == at_once.push(text) + at_once.finish()
    assert shown == "".join(map(by_character.push, text)) + by_character.finish()
    assert streamed.found == at_once.found == by_character.found
    assert not any(one in shown for one in stop)
    assert shown == text if streamed.found is None else text.startswith(shown + streamed.found)


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet="ab \n", max_size=30), _STOPS)
def test_what_was_shown_is_always_the_beginning_of_what_will_be(
    byte_level: Tokenizer, text: str, stop: list[str]
) -> None:
    detokenizer = Detokenizer(byte_level, stop)
    shown = ""
    final = StopStrings(stop)
    whole = final.push(text) + final.finish()
    for token in byte_level.encode(text):
        shown += detokenizer.push(token)
        assert whole.startswith(shown)
    assert shown + detokenizer.finish() == whole
    assert detokenizer.stop_string == final.found


def test_nothing_follows_a_stop_string(byte_level: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_level, ["\nUser:"])
    assert _streamed(detokenizer, byte_level.encode("Fine.\nUser: and you?")) == "Fine."
    assert detokenizer.stopped
    assert detokenizer.stop_string == "\nUser:"
    assert detokenizer.push(byte_level.encode("a")[0]) == ""


def test_text_that_only_began_like_a_stop_string_comes_out_at_the_end(byte_level: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_level, ["###"])
    assert "".join(map(detokenizer.push, byte_level.encode("a ##"))) == "a "
    assert detokenizer.finish() == "##"
    assert not detokenizer.stopped


def test_half_a_character_waits_for_its_other_half(byte_level: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_level)
    shown = [detokenizer.push(token) for token in byte_level.encode("\U0001f9ed")]
    assert "".join(shown[:-1]) == ""
    assert shown[-1] == "\U0001f9ed"


def test_an_unfinished_character_is_replaced_at_the_end(byte_level: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_level)
    assert "".join(map(detokenizer.push, byte_level.encode("a\U0001f9ed")[:-1])) == "a"
    assert detokenizer.finish() == "\ufffd"


def test_special_tokens_give_no_text_unless_they_are_asked_for(byte_level: Tokenizer) -> None:
    tokens = [*byte_level.encode("a"), 2, 10_000, *byte_level.encode("b")]
    assert _streamed(Detokenizer(byte_level), tokens) == "ab"
    assert _streamed(Detokenizer(byte_level, visible=["<|im_end|>", "<none>"]), tokens) == "a<|im_end|>b"


def test_a_special_token_named_as_a_stop_string_stops(byte_level: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_level, ["<|im_end|>", "#!"])
    assert _streamed(detokenizer, [*byte_level.encode("a#"), 2, *byte_level.encode("b")]) == "a#"
    assert detokenizer.stop_string == "<|im_end|>"


def test_only_the_first_blank_of_an_answer_is_dropped(sentencepiece: Tokenizer) -> None:
    tokens = sentencepiece.encode("the the")
    assert _streamed(Detokenizer(sentencepiece), [1, *tokens]) == "the the"
    assert _streamed(Detokenizer(sentencepiece, keeps_leading_blank=True), tokens) == " the the"


def test_a_token_costs_the_same_however_long_the_text_is(byte_level: Tokenizer) -> None:
    tokens = byte_level.encode("The lantern waits for a question. " * 300)
    detokenizer = Detokenizer(byte_level, ["\n\nUser:", "###"])
    half = len(tokens) // 2

    def push(some: Sequence[int]) -> None:
        for token in some:
            detokenizer.push(token)

    first, second = count_calls(push, tokens[:half]), count_calls(push, tokens[half:])
    assert second < 1.1 * first
    assert second / (len(tokens) - half) < 40


def _streamed(detokenizer: Detokenizer, tokens: Sequence[int]) -> str:
    return "".join(map(detokenizer.push, tokens)) + detokenizer.finish()
