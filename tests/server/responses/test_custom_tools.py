"""Custom tools: plain text as input, free or by a grammar; their events, items and refusals."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import numpy as np
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.engine.types import Constraint
from appliance.server.v1.chat.custom import GrammarTool, marker
from appliance.server.v1.chat.grammar import constraints
from appliance.server.v1.chat.tools import GENERIC, ToolUse
from appliance.server.v1.chat.wire import Function
from appliance.server.v1.responses.input_reader import InputReader
from appliance.text.tool_calls import ArgumentsDelta, CallStart, TextDelta, make_parser
from appliance.text.tool_calls.raw import RawCallParser
from tests.conftest import RunningServer
from tests.server.responses.asking import MODEL, WEATHER, create, post, stream
from tests.server.responses.openai_schemas import OpenAISchemas
from tests.server.test_tool_schemas import COMPILER, END
from tests.server.wire import assert_error

SUM = 'start: term ("+" term)*\nterm: NUMBER | "(" start ")"\nNUMBER: /[0-9]{1,3}/'
DATE = r"20[0-9]{2}-[01][0-9]/[0-3][0-9]"
MATH: dict[str, Any] = {
    "type": "custom",
    "name": "math",
    "description": "Adds numbers.",
    "format": {"type": "grammar", "syntax": "lark", "definition": SUM},
}
NOTE: dict[str, Any] = {"type": "custom", "name": "note", "description": "Takes a note."}
PLAIN = Function(
    name="f", parameters={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, strict=True
)
TOOL = GrammarTool(name="math", grammar=SUM, strict=True)


def use(*functions: Function, form: str, must_call: bool = False) -> ToolUse:
    return ToolUse(
        functions=functions,
        must_call=must_call,
        parallel=True,
        is_legacy=False,
        format=form,
        template_knows_tools=form != GENERIC,
    )


def takes(constraint: Constraint | None, text: str) -> bool:
    """Return True if the grammar allows the whole text, and the end after it."""
    assert constraint is not None
    logits = np.zeros(END + 1, np.float32)
    for byte in text.encode():
        logits[:] = 0
        constraint.apply(logits)
        if logits[byte] != 0:
            return False
        constraint.accept(byte)
    logits[:] = 0
    constraint.apply(logits)
    return bool(logits[END] == 0)


GENERIC_SUM, TAGGED_SUM = marker("math", is_generic=True), marker("math", is_generic=False)
TAGGED_CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("tools", "text", "is_taken"),
    [
        (use(TOOL, form=GENERIC, must_call=True), f"{GENERIC_SUM}1+(2+33)", True),
        (use(TOOL, form=GENERIC, must_call=True), f"{GENERIC_SUM}1+", False),
        (use(TOOL, form=GENERIC, must_call=True), "1+1", False),
        (use(PLAIN, TOOL, form=GENERIC, must_call=True), '{"name": "f", "arguments": {"a": 1}}', True),
        (use(PLAIN, TOOL, form=GENERIC, must_call=True), f"{GENERIC_SUM}7", True),
        (use(PLAIN, TOOL, form=GENERIC), "Seven.", True),
        (use(PLAIN, TOOL, form=GENERIC), f"{GENERIC_SUM}7", True),
        (use(PLAIN, TOOL, form=GENERIC), f"{GENERIC_SUM}seven", False),
        (use(TOOL, form="hermes"), "Let me see. 1 < 2.", True),
        (use(TOOL, form="hermes"), f"Let me see. {TAGGED_SUM}1+2", True),
        (use(TOOL, form="hermes"), f"{TAGGED_SUM}one", False),
        (use(PLAIN, TOOL, form="hermes"), f"{TAGGED_CALL}\n{TAGGED_SUM}1+2", True),
        (use(PLAIN, TOOL, form="hermes"), f"{TAGGED_CALL} and nothing else", True),
        (use(PLAIN, TOOL, form="hermes"), f"{TAGGED_CALL}\n{TAGGED_SUM}one", False),
        (use(PLAIN, TOOL, form="gemma", must_call=True), f"{GENERIC_SUM}(1)", True),
    ],
)
def test_an_input_follows_its_grammar_in_every_form_of_a_call(tools: ToolUse, text: str, *, is_taken: bool) -> None:
    (constraint,) = constraints(tools, None, (), COMPILER)
    assert takes(constraint, text) == is_taken


@given(st.lists(st.integers(0, 60), max_size=6), st.sampled_from([GENERIC, "hermes"]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_call_is_read_however_its_text_is_cut(cuts: list[int], form: str, with_plain: bool) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    begin = marker("math", is_generic=form == GENERIC)
    before = TAGGED_CALL if with_plain and form == "hermes" else "so < "
    raw = f'1 + "2"\n</tool_call> {begin}'
    text = before + begin + raw
    parser = RawCallParser(make_parser(form, tools), {begin: "math"})
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    events = [e for a, b in itertools.pairwise(edges) for e in parser.push(text[a:b])] + parser.finish()
    starts = [event for event in events if isinstance(event, CallStart)]
    num_before = 1 if before == TAGGED_CALL else 0
    assert (
        [(start.index, start.name) for start in starts] == [(0, "f"), (1, "math")][1 - num_before :]
        if (num_before)
        else [(0, "math")]
    )
    assert "".join(e.text for e in events if isinstance(e, ArgumentsDelta) and e.index == starts[-1].index) == raw
    if not num_before:
        assert "".join(e.text for e in events if isinstance(e, TextDelta)) == before


@given(
    st.text(), st.lists(st.integers(0, 80), max_size=6), st.booleans(), st.sampled_from(['{"input": ', '{ "input":'])
)
@settings(max_examples=300, deadline=None)
def test_an_input_is_read_out_of_its_json_however_that_is_cut(
    text: str, cuts: list[int], ascii_only: bool, begin: str
) -> None:
    whole = begin + json.dumps(text, ensure_ascii=ascii_only) + "}"
    reader = InputReader()
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    assert "".join(reader.push(whole[a:b]) for a, b in itertools.pairwise(edges)) == text


@pytest.mark.parametrize(
    ("tool", "pattern"),
    [
        (MATH, r"[0-9+()]+"),
        ({"type": "custom", "name": "day", "format": {"type": "grammar", "syntax": "regex", "definition": DATE}}, DATE),
        (NOTE, r"(?s).*"),
        ({**NOTE, "format": {"type": "text"}}, r"(?s).*"),
    ],
)
def test_a_forced_call_streams_its_input_and_its_result_makes_a_turn(
    server: RunningServer, tool: dict[str, Any], pattern: str
) -> None:
    fields: dict[str, Any] = {"input": "What is 1+1?", "tools": [tool], "max_output_tokens": 60}
    choice = {"type": "custom", "name": tool["name"]}
    events = stream(server, **fields, tool_choice=choice)
    schemas = OpenAISchemas()
    for event in events:
        if event.get("response", {}).get("usage", 0) is None:
            del event["response"]["usage"]
        assert schemas.faults("ResponseStreamEvent", event) == []
    last = events[-1]["response"]
    (call,) = last["output"]
    assert (call["type"], call["name"]) == ("custom_tool_call", tool["name"])
    deltas = [event["delta"] for event in events if event["type"] == "response.custom_tool_call_input.delta"]
    assert "".join(deltas) == call["input"]
    assert last["tool_choice"] == choice
    assert last["tools"][0]["format"] == tool.get("format", {"type": "text"})
    plain = create(server, **fields, tool_choice="required")
    assert plain["output"][0]["input"] == call["input"]
    if call["status"] == "completed":
        assert re.fullmatch(pattern, call["input"])
        assert [e["input"] for e in events if e["type"] == "response.custom_tool_call_input.done"] == [call["input"]]
    result = {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "It is 2."}
    create(server, input=[result], previous_response_id=last["id"], max_output_tokens=2)
    create(server, input=[{"role": "user", "content": "1+1?"}, call, result], max_output_tokens=2)


def test_openais_client_streams_a_custom_call(server: RunningServer) -> None:
    client = openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)
    tools: Any = [MATH]
    with client.responses.stream(
        model=MODEL, input="1+1?", tools=tools, tool_choice="required", temperature=0, max_output_tokens=200
    ) as events:
        kinds = {event.type for event in events}
    assert "response.custom_tool_call_input.delta" in kinds


def test_beside_functions_a_custom_tool_is_offered_and_either_may_be_called(server: RunningServer) -> None:
    answer = post(server, input="Hi", tools=[{"type": "web_search"}, MATH, WEATHER], max_output_tokens=8)
    assert answer.headers["x-lantern-ignored-tools"] == "web_search"
    assert [tool["type"] for tool in answer.json()["tools"]] == ["custom", "function"]
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "name": "math"}]}
    made = create(server, input="1+1?", tools=[MATH, WEATHER], tool_choice=allowed, max_output_tokens=60)
    assert [item["type"] for item in made["output"]] == ["custom_tool_call"]


@pytest.mark.parametrize(
    ("tool", "code", "param"),
    [
        ({"type": "custom"}, "missing_required_parameter", "tools[0].name"),
        ({"type": "custom", "name": "a b"}, "invalid_value", "tools[0].name"),
        ({**NOTE, "format": {"type": "grammar"}}, "missing_required_parameter", "tools[0].format.syntax"),
        (
            {**NOTE, "format": {"type": "grammar", "syntax": "lark"}},
            "missing_required_parameter",
            "tools[0].format.definition",
        ),
        (
            {**NOTE, "format": {"type": "grammar", "syntax": "lark", "definition": "start: nothing"}},
            "invalid_grammar",
            "tools[0].format.definition",
        ),
        (
            {**NOTE, "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "a"\n}\nx: %lark {'}},
            "invalid_grammar",
            "tools[0].format.definition",
        ),
        (
            {**NOTE, "format": {"type": "grammar", "syntax": "regex", "definition": "a(?=b)["}},
            "invalid_grammar",
            "tools[0].format.definition",
        ),
        (
            {**NOTE, "format": {"type": "grammar", "syntax": "lark", "definition": "x" * 200_000}},
            None,
            "tools[0].format.definition",
        ),
    ],
)
def test_a_tool_that_is_not_valid_is_refused_by_its_part(
    server: RunningServer, tool: dict[str, Any], code: str | None, param: str
) -> None:
    assert_error(post(server, input="Hi", tools=[tool]), 400, code, param)


def test_a_result_without_its_call_is_refused(server: RunningServer) -> None:
    result = {"type": "custom_tool_call_output", "call_id": "call_1", "output": "2"}
    assert "custom tool call output" in assert_error(post(server, input=[result]), 400, param="input")
