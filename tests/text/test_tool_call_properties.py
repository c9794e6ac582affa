"""Properties of any text that a model may write."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.text.tool_calls import FORMAT_NAMES, ArgumentsDelta, CallEnd, CallStart, Event, TextDelta, make_parser
from tests.steps import count_calls

_FRAGMENTS = [
    *("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|tool_call_start|>"),
    *("<|tool_call_end|>", "<start_function_call>", "<end_function_call>", "<escape>", '<|"|>', "call:", "<function="),
    *(
        "</function>",
        "<parameter=",
        "</parameter>",
        '"name"',
        '"arguments"',
        '"parameters"',
        '"f"',
        "f",
        "null",
        "true",
    ),
    *(
        ": ",
        ", ",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        "=",
        ">",
        "<",
        '"',
        "'",
        "\\",
        "\\u",
        "d800",
        "1",
        "-",
        ".5",
        "e9",
        "\n",
        " ",
    ),
    *(
        '{"name": "f", "arguments": {',
        '{"name": "f", "parameters": ',
        "f(a=",
        "call:f{a:",
        "<function=f>",
        "<parameter=a>",
    ),
]
_MODEL_TEXT = st.lists(st.sampled_from(_FRAGMENTS) | st.text(max_size=3), max_size=25)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("name", FORMAT_NAMES)
@settings(deadline=None, max_examples=150)
@given(pieces=_MODEL_TEXT)
def test_no_text_makes_a_parser_raise_and_no_cut_makes_a_difference(name: str, pieces: list[str]) -> None:
    text = "".join(pieces)
    at_once, cut, by_character = _summary(name, [text]), _summary(name, pieces), _summary(name, text)
    assert at_once == cut == by_character
    assert json.dumps(at_once, ensure_ascii=False).encode()


@pytest.mark.parametrize("name", FORMAT_NAMES)
@settings(deadline=None, max_examples=50)
@given(text=st.text(alphabet="abc {}[]<>:'\"=(),.\n", max_size=40))
def test_text_without_calls_comes_back_to_the_letter(name: str, text: str) -> None:
    shown, calls = _summary(name, text)
    assert calls or shown == text


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.text(), _JSON, max_size=4), st.booleans())
def test_any_arguments_in_json_come_through_to_the_letter(arguments: dict[str, object], ascii_only: bool) -> None:
    text = json.dumps(arguments, ensure_ascii=ascii_only)
    message = f'{{"name": "f", "arguments": {text}}}'
    for name, framed in [
        ("hermes", f"<tool_call>{message}</tool_call>"),
        ("llama3", message),
        ("mistral", f"[TOOL_CALLS]f{text}"),
        ("generic", f"[{message}]"),
    ]:
        assert _summary(name, framed) == ("", [("f", text)])


@settings(deadline=None, max_examples=150)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z]\w{0,5}", fullmatch=True), st.text() | st.integers() | st.booleans(), max_size=3
    )
)
def test_any_arguments_in_python_come_through(arguments: dict[str, object]) -> None:
    written = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    shown, calls = _summary("pythonic", f"[f({written})]")
    assert shown == ""
    assert [(name, json.loads(text)) for name, text in calls] == [("f", arguments)]


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_repeated_beginnings_of_calls_take_work_in_proportion(name: str) -> None:
    for fragment in (
        "<tool_call>",
        "[",
        "call:",
        '{"name":',
        "<function=f>",
        "[TOOL_CALLS]",
        "<|python_tag|>[",
        "<" * 9,
    ):
        once, twice = (count_calls(_summary, name, [text]) for text in (fragment * 1000, fragment * 2000))
        assert twice < 2.2 * once + 100


def _summary(name: str, pieces: Iterable[str]) -> tuple[str, list[tuple[str, str]]]:
    """The text, and name and arguments of every call; checks the order of events."""
    parser = make_parser(name)
    text = ""
    calls: list[tuple[str, str]] = []
    is_open = False
    events: list[Event] = [event for piece in pieces for event in parser.push(piece)]
    for event in events + parser.finish():
        if isinstance(event, TextDelta):
            assert event.text
            assert not is_open
            text += event.text
        elif isinstance(event, CallStart):
            assert event.index == len(calls)
            assert not is_open
            is_open = True
            calls.append((event.name, ""))
        elif isinstance(event, ArgumentsDelta):
            assert is_open
            assert event.index == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + event.text)
        else:
            assert isinstance(event, CallEnd)
            is_open = False
    assert not is_open
    return text, calls
