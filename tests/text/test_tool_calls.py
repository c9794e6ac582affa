"""Tool calls as each family writes them and a client gets them: whole messages, each also fed a character at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from appliance.errors import BundleError
from appliance.text.tool_calls import (
    FORMAT_NAMES,
    ArgumentsDelta,
    CallEnd,
    CallStart,
    Event,
    TextDelta,
    format_for_template,
    make_parser,
    visible_markers,
)

Tools = Sequence[Mapping[str, Any]]
Call = tuple[str, object]

_TOOLS: Tools = [
    {
        "type": "function",
        "function": {
            "name": "run",
            "parameters": {
                "properties": {"code": {"type": "string"}, "n": {"type": "integer"}, "mode": {"enum": ["1"]}}
            },
        },
    }
]

# format, what the model writes, the text a client sees, the calls
_MESSAGES: list[tuple[str, str, str, list[Call]]] = [
    ("hermes", 'Sure.<tool_call>\n{"name": "f", "arguments": {"a": [1]}}\n</tool_call>', "Sure.", [("f", {"a": [1]})]),
    (
        "hermes",
        """<tool_call>{"name": "f", "arguments": {}}</tool_call>
<tool_call>{"name": "g", "arguments": {"b": "}</tool_call>"}}</tool_call>
""",
        "",
        [("f", {}), ("g", {"b": "}</tool_call>"})],
    ),
    ("hermes", '<tool_call>[{"name": "f", "arguments": {}}, {"name": "g"}]</tool_call>', "", [("f", {}), ("g", {})]),
    ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call> done', " done", [("f", {"a": 1})]),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("f", {"a": 1})]),
    ("hermes", '<tool_call>{"name": "f", "arguments": "\\ud800"}</tool_call>', "", [("f", "\ufffd")]),
    ("hermes", '<tool_call>{"name": "f", "arguments": null, "id": "7"}</tool_call>', "", [("f", {})]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "x\ny"}}</tool_call>', "", [("f", {"a": "x\ny"})]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>', "", [("f", {"a": 1})]),
    ("hermes", '<tool_call><tool_call>{"name": "f"}</tool_call>', "<tool_call>", [("f", {})]),
    ("llama3", '{"name": "f", "parameters": {"a": 1}}', "", [("f", {"a": 1})]),
    ("llama3", '{"type": "function", "function": "f", "parameters": {}}; {"name": "g", "parameters": {}}', "",
     [("f", {}), ("g", {})]),
    ("llama3", 'Let me see.<|python_tag|>{"name": "f", "parameters": {}}', "Let me see.", [("f", {})]),
    ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]', "",
     [("f", {"a": 1}), ("g", {})]),
    ("mistral", 'Hm.[TOOL_CALLS]f{"a": 1}[TOOL_CALLS]g[CALL_ID]x1[ARGS]{"b": 2}', "Hm.",
     [("f", {"a": 1}), ("g", {"b": 2})]),
    ("pythonic", '[f(a=1, b="x, )]"), m.g()]', "", [("f", {"a": 1, "b": "x, )]"}), ("m.g", {})]),
    (
        "pythonic",
        "[f(a=-1.5e3, b=(True, None, []), c={'k': 'it\\'s\\u00e9\\n'}, d='''t'q''', e='', )]",
        "",
        [("f", {"a": -1500.0, "b": [True, None, []], "c": {"k": "it'sé\n"}, "d": "t'q", "e": ""})],
    ),
    ("pythonic", "I look.<|tool_call_start|>[f(a=1)]<|tool_call_end|>Done.", "I look.Done.", [("f", {"a": 1})]),
    (
        "gemma",
        "<start_function_call>call:f{city:<escape>a}<b,<escape>,n:-3,o:{t:true,l:[1,<escape><escape>]}}<end_function_call>",
        "",
        [("f", {"city": "a}<b,", "n": -3, "o": {"t": True, "l": [1, ""]}})],
    ),
    ("gemma", '<|tool_call>call:f{q:<|"|>x "y"<|"|>}<tool_call|>Well.', "Well.", [("f", {"q": 'x "y"'})]),
    ("gemma", 'call:f{city:New York,n:2,"s":"t"}call:g{}', "",
     [("f", {"city": "New York", "n": 2, "s": "t"}), ("g", {})]),
    (
        "qwen3_coder",
        """Yes.
<tool_call>
<function=run>
<parameter=code>
if a < b:
    print("</x>")

</parameter>
<parameter=n>
3
</parameter>
</function>
</tool_call>""",
        "Yes.\n",
        [("run", {"code": 'if a < b:\n    print("</x>")\n', "n": 3})],
    ),
    ("qwen3_coder", "<function=run><parameter=code>1</parameter><parameter=mode>1</parameter></function>", "",
     [("run", {"code": "1", "mode": "1"})]),
    ("qwen3_coder", "<function=other>\n<parameter=a>\n[1, 2]\n</parameter><parameter=b>NaN</parameter></function>", "",
     [("other", {"a": [1, 2], "b": "NaN"})]),
    ("qwen3_coder", "<tool_call>\n<function=run>\n</tool_call>", "", [("run", {})]),
    ("qwen3_coder", "<function=run>\n<b>bold", "<b>bold", [("run", {})]),
    ("generic", '{"name": "f", "arguments": {"a": 1}}', "", [("f", {"a": 1})]),
    ("generic", '[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}] ok', " ok", [("f", {}), ("g", {})]),
]  # fmt: skip

# What looks like a call for a while.
_TEXTS = [
    ("hermes", "<tool_call>nothing</tool_call> <tool"),
    ("hermes", 'a < b, {"name": "f", "arguments": {}} </tool_call>'),
    ("hermes", '<tool_call>{"name": 5}</tool_call>'),
    ("hermes", '  \n<tool_call>{"nam'),
    ("llama3", '{"city": "Paris"}'),
    ("llama3", "<|python_tag|>search.call(query='x')"),
    ("generic", '{"name": "Bob"}'),
    ("generic", '{"name": "Bob", "age": 3}'),
    ("generic", "[1, 2]"),
    ("generic", "[]"),
    ("generic", 'See {"name": "f", "arguments": {}}'),
    ("generic", " \n"),
    ("mistral", "[TOOL_CALLS] see above"),
    ("mistral", "[TOOL_CALLS]f[OTHER]{}"),
    ("pythonic", "[1] is a reference, [f(x)] is not"),
    ("pythonic", "[f(a=1, b=nan)]"),
    ("pythonic", "[f(a=" + "[" * 200),
    ("pythonic", "[f(a='\\xzz')]<|tool_call_end|>"),
    ("gemma", "call: me maybe, recall:x{a:1}"),
    ("gemma", "<start_function_call>call:f{a:<b>}"),
    ("qwen3_coder", "<function=>a</function> and <tool_call>\n<b>"),
]


@pytest.mark.parametrize(("name", "message", "text", "calls"), _MESSAGES)
def test_each_family_s_calls_come_out_as_calls(name: str, message: str, text: str, calls: list[Call]) -> None:
    events = _read(name, [message])
    assert _text(events) == text
    assert _calls(events) == calls
    assert _read(name, message) == events


@pytest.mark.parametrize(("name", "message"), _TEXTS)
def test_what_only_looks_like_a_call_comes_back_to_the_letter(name: str, message: str) -> None:
    assert _read(name, [message]) == [TextDelta(message)]
    assert _read(name, message) == [TextDelta(message)]


def test_arguments_stream_to_the_letter_while_they_come() -> None:
    parser = make_parser("hermes")
    assert parser.push('<tool_call>{"name": "f", "arg') == []
    assert parser.push('uments": {"a":  [1') == [CallStart(0, "f"), ArgumentsDelta(0, '{"a":  [1')]
    assert parser.push(", 2]}") == [ArgumentsDelta(0, ", 2]}"), CallEnd(0)]
    assert parser.push("}</tool_call>") == []
    assert parser.finish() == []


def test_text_parameters_stream_too() -> None:
    parser = make_parser("qwen3_coder", _TOOLS)
    assert parser.push("<function=run><parameter=code>\nprint(") == [
        CallStart(0, "run"),
        ArgumentsDelta(0, '{"code": "print('),
    ]
    assert parser.push('"') == [ArgumentsDelta(0, '\\"')]


def test_ordinary_text_is_not_held_back() -> None:
    parser = make_parser("hermes")
    assert parser.push("Hello <to") == [TextDelta("Hello ")]
    assert parser.push("ols>") == [TextDelta("<tools>")]
    assert parser.finish() == []


def test_a_call_that_is_broken_off_ends() -> None:
    parser = make_parser("hermes")
    parser.push('<tool_call>{"name": "f", "arguments": {"a": "b')
    assert parser.finish() == [CallEnd(0)]
    assert parser.finish() == []
    assert parser.push("more") == []


def test_a_bare_object_is_a_call_only_of_a_tool_that_there_is() -> None:
    message = '{"name": "walk", "arguments": {}}'
    assert _read("generic", [message], _TOOLS) == [TextDelta(message)]
    assert _calls(_read("generic", ['{"name": "run", "arguments": {}}'], _TOOLS)) == [("run", {})]
    assert _calls(_read("generic", ['{"name": "run"}'], _TOOLS)) == [("run", {})]
    assert _read("pythonic", ["[walk()]"], _TOOLS) == [TextDelta("[walk()]")]


def test_malformed_tools_count_as_unknown() -> None:
    tools: Tools = [{}, {"function": 5}, {"function": {"name": "f", "parameters": 1}}]
    assert _calls(_read("qwen3_coder", ["<function=f><parameter=a>1</parameter></function>"], tools)) == [
        ("f", {"a": 1})
    ]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("{{ '<tool_call>\\n' }}", "hermes"),
        ("<tool_call>\n<function=example>", "qwen3_coder"),
        ("{{ '[TOOL_CALLS] [' }}", "mistral"),
        ("{{ '<|python_tag|>' + call }}", "llama3"),
        ("{{ '<start_function_call>call:' }}", "gemma"),
        ("{{ '<|tool_call>call:' }}", "gemma"),
        ("{{ '<|tool_call_start|>[' }}", "pythonic"),
        ("{% set text = 'List of tools: <|tool_list_start|>[' %}", "pythonic"),
        ("{% set text = 'List of tools: [' %}", "pythonic"),
        ("{{ message.content }}", "generic"),
    ],
)
def test_a_template_tells_which_format_it_speaks(source: str, name: str) -> None:
    assert format_for_template(source) == name


def test_every_format_has_a_parser_and_says_what_it_must_see() -> None:
    for name in FORMAT_NAMES:
        assert make_parser(name).push("a") == [TextDelta("a")]
    assert "[TOOL_CALLS]" in visible_markers("mistral")
    assert visible_markers("generic") == ()


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(BundleError, match="use one of hermes, llama3"):
        make_parser("xml")


def _read(name: str, pieces: Iterable[str], tools: Tools | None = None) -> list[Event]:
    """All events of a message, neighbouring pieces of one text joined."""
    parser = make_parser(name, tools if tools is not None else _TOOLS if name == "qwen3_coder" else ())
    joined: list[Event] = []
    for event in [event for piece in pieces for event in parser.push(piece)] + parser.finish():
        last = joined[-1] if joined else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            joined[-1] = TextDelta(last.text + event.text)
        elif isinstance(event, ArgumentsDelta) and isinstance(last, ArgumentsDelta):
            joined[-1] = replace(last, text=last.text + event.text)
        else:
            joined.append(event)
    return joined


def _text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def _calls(events: list[Event]) -> list[Call]:
    starts = [event for event in events if isinstance(event, CallStart)]
    assert [event.index for event in starts] == list(range(len(starts)))
    assert [event.index for event in events if isinstance(event, CallEnd)] == list(range(len(starts)))
    texts = ["".join(e.text for e in events if isinstance(e, ArgumentsDelta) and e.index == s.index) for s in starts]
    return [(start.name, json.loads(text)) for start, text in zip(starts, texts, strict=True)]
