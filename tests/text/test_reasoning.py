from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.text.reasoning import (
    CHANNEL,
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
    assert marks_for_template("{{ messages }}") is None
    assert opens_reasoning("<|turn>model\n<|channel>thought\n", CHANNEL)
    assert not opens_reasoning("<|turn>model\n<|channel>thought\n<channel|>", CHANNEL)
    assert _split(["So.\n<channel|>Answer."], CHANNEL, starts_inside=True) == ("So.", "Answer.")


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
