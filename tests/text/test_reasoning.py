from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.text.reasoning import (
    BRACKETS,
    CHANNEL,
    FAMILIES,
    PHRASES,
    RESPONSE,
    THINK,
    ReasoningDelta,
    ReasoningMarks,
    ReasoningSplitter,
    marks_for_template,
    opens_reasoning,
)


@pytest.mark.parametrize(
    ("message", "reasoning", "text"),
    [
        ("<think>\nFirst, then.\n</think>\n\nAnswer.\n", "First, then.", "Answer.\n"),
        ("\n<think></think>Answer.", "", "Answer."),
        ("Answer with <think>tags</think>.", "", "Answer with <think>tags</think>."),
        ("<think>one</think>two<think>three</think>", "one", "two<think>three</think>"),
        ("<think>one</think>\n\n</think>\n</think>two</think>", "one", "two</think>"),
        ("<think>one</think></thi", "one", "</thi"),
        ("<think>never </th", "never </th", ""),
        (" \n", "", " \n"),
        ("<thi", "", "<thi"),
    ],
)
def test_reasoning_comes_first_and_apart(message: str, reasoning: str, text: str) -> None:
    assert _split([message]) == _split(message) == (reasoning, text)


def test_a_prompt_may_have_opened_the_reasoning() -> None:
    assert opens_reasoning("<|im_start|>assistant\n<think>\n", THINK)
    assert not opens_reasoning("<|im_start|>assistant\n<think>\n\n</think>\n\n", THINK)
    assert _split(["So.\n</think>\nAnswer."], starts_inside=True) == ("So.", "Answer.")


@pytest.mark.parametrize(
    ("message", "reasoning", "text"),
    [
        ("<|channel>thought\nFirst, then.\n<channel|>Answer.", "First, then.", "Answer."),
        ("<|channel>thought\n<channel|>Answer.", "", "Answer."),
        ("<|channel>thoughtful<channel|>Answer.", "ful", "Answer."),
        ("<|channel>thou", "thou", ""),
        ("<|channel>I think<channel|>so", "I think", "so"),
        ("<think>one</think>", "", "<think>one</think>"),
        ("The <|channel>thought<channel|>", "", "The <|channel>thought<channel|>"),
    ],
)
def test_the_channel_of_gemma_4_is_reasoning_without_its_label(message: str, reasoning: str, text: str) -> None:
    assert _split([message], CHANNEL) == _split(message, CHANNEL) == (reasoning, text)


def test_a_template_tells_the_marks() -> None:
    assert marks_for_template("{{ '<|channel>thought\n<channel|>' }}") is CHANNEL
    assert marks_for_template("{{ '<think>' }}") is THINK
    assert marks_for_template("{{ '[THINK]' }}") is BRACKETS
    assert marks_for_template("Write between <think></think>, then between <response></response>.") is RESPONSE
    assert marks_for_template("Write after 'Here is my thought process:'") is PHRASES
    assert marks_for_template("{{ content.split('</think>')[-1] }}") is THINK  # LFM2.5's, whose model opens it
    assert marks_for_template("<tool_response><think>") is THINK
    assert marks_for_template("{{ messages }}") is None
    assert marks_for_template("{{ messages }}", ["<s>", "<think>"]) is None
    assert marks_for_template("{{ messages }}", ["<s>", "<think>", "</think>"]) is THINK
    assert opens_reasoning("<|turn>model\n<|channel>thought\n", CHANNEL)
    assert not opens_reasoning("<|turn>model\n<|channel>thought\n<channel|>", CHANNEL)
    assert _split(["So.\n<channel|>Answer."], CHANNEL, starts_inside=True) == ("So.", "Answer.")


@pytest.mark.parametrize(
    ("message", "reasoning", "text"),
    [
        ("<think>one</think>\n<response>two</response>", "one", "two"),
        ("<think>one</think><response>two</response>\nthree", "one", "two\nthree"),
        ("\n<response>two</response>", "", "two"),
        ("<think>one</think>two</response>", "one", "two</response>"),
        ("<think>one</think><response>two</resp", "one", "two</resp"),
        ("<think>one</think><response><response>", "one", "<response>"),
    ],
)
def test_the_marks_around_an_answer_are_dropped_once(message: str, reasoning: str, text: str) -> None:
    assert _split([message], RESPONSE) == _split(message, RESPONSE) == (reasoning, text)


_PARTS = st.text(st.sampled_from("ab <>/[]|\né"), max_size=12)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(FAMILIES), _PARTS, _PARTS, st.booleans(), st.booleans(), st.data())
def test_no_family_s_marks_are_content_wherever_its_pieces_are_cut(
    marks: ReasoningMarks, reasoning: str, answer: str, is_open: bool, is_marked: bool, data: st.DataObject
) -> None:
    reasoning, answer = f"a{reasoning}a", f"b{answer}b"
    begin = "" if is_open else f"\n{marks.opening}{marks.label}\n"
    said = f"{marks.answer}\n{answer}{marks.answer_end}" if is_marked else answer
    text = f"{begin}{reasoning}\n{marks.end}\n{said}"
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    for pieces in (list(text), [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]):
        assert _split(pieces, marks, starts_inside=is_open) == (reasoning, answer)


def test_reasoning_streams() -> None:
    splitter = ReasoningSplitter()
    assert splitter.push("<think>So ") == [ReasoningDelta("So")]
    assert splitter.push("it is </thi") == [ReasoningDelta(" it is")]
    assert splitter.push("s") == [ReasoningDelta(" </this")]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(["<think>", "</think>", "<", "think", "</", ">", "\n", " ", "a"])), st.booleans())
def test_no_cut_makes_a_difference(pieces: list[str], starts_inside: bool) -> None:
    text = "".join(pieces)
    assert (
        _split(pieces, starts_inside=starts_inside)
        == _split([text], starts_inside=starts_inside)
        == _split(text, starts_inside=starts_inside)
    )


def _split(pieces: Iterable[str], marks: ReasoningMarks = THINK, *, starts_inside: bool = False) -> tuple[str, str]:
    splitter = ReasoningSplitter(marks, starts_inside=starts_inside)
    events = [event for piece in pieces for event in splitter.push(piece)] + splitter.finish()
    reasoning = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    return reasoning, "".join(event.text for event in events if not isinstance(event, ReasoningDelta))
