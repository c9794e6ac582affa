"""Steps of a message become items and events: reasoning, text and calls in any order, cut anywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.server.state.sealing import Sealer
from appliance.server.v1.chat.message import Delta
from appliance.server.v1.responses.events import Event, Output
from tests.server.responses.asking import check_events
from tests.server.responses.openai_schemas import OpenAISchemas

SEALER = Sealer()


def a_call(number: int) -> list[Delta]:
    """The steps of a whole call."""
    begin = {"index": number, "id": f"call_{number}", "type": "function", "function": {"name": "f", "arguments": ""}}
    steps: list[Any] = [begin, *({"index": number, "function": {"arguments": text}} for text in ('{"a"', ": 1}"))]
    return [Delta({"tool_calls": [step]}) for step in steps]


def events_of(steps: list[Delta], *, is_cut: bool, as_summary: bool = False, seals: bool = False) -> list[Event]:
    """All events of a response of these steps, with the states around them."""
    output = Output(as_summary=as_summary, sealer=SEALER if seals else None)
    events: list[Event] = [{"type": "response.created", "response": {"id": "r"}}]
    events.append({"type": "response.in_progress", "response": {"id": "r"}})
    for step in steps:
        events += output.read(step, [])
    events += output.finish(is_cut=is_cut)
    kind = "response.incomplete" if is_cut else "response.completed"
    events.append({"type": kind, "response": {"id": "r", "output": output.items}})
    for number, event in enumerate(events):
        event["sequence_number"] = number
    copied: list[Event] = json.loads(json.dumps(events))
    return copied


TEXTS = st.text(st.sampled_from("ab \n"), max_size=4)
STEPS = st.lists(
    st.one_of(
        TEXTS.map(lambda text: [Delta({"content": text})]),
        TEXTS.map(lambda text: [Delta({"reasoning_content": text})]),
        st.integers(0, 5).map(a_call),
        st.just([Delta({"role": "assistant", "content": None, "refusal": None})]),
    ),
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(STEPS, st.booleans(), st.booleans())
def test_any_steps_make_a_stream_that_clients_can_read(groups: list[list[Delta]], is_cut: bool, summary: bool) -> None:
    steps = [step for group in groups for step in group]
    events = events_of(steps, is_cut=is_cut, as_summary=summary)
    check_events(events)
    output = events[-1]["response"]["output"]
    assert output or is_cut
    statuses = [item["status"] for item in output]
    assert set(statuses[:-1]) <= {"completed"}
    texts = [part["text"] for item in output if item["type"] == "message" for part in item["content"]]
    said = "".join(str(step.fields.get("content") or "") for step in steps)
    assert "".join("".join(texts).split()) == "".join(said.split())


@pytest.mark.parametrize("as_summary", [False, True])
@pytest.mark.parametrize("is_cut", [False, True])
def test_events_of_reasoning_text_and_calls_satisfy_openais_schemas(as_summary: bool, is_cut: bool) -> None:
    schemas = OpenAISchemas()
    steps = [Delta({"reasoning_content": "hm"}), Delta({"content": "\n\n"}), Delta({"content": "a"}), *a_call(0)]
    for event in events_of(steps, is_cut=is_cut, as_summary=as_summary, seals=True)[2:-1]:
        assert schemas.faults("ResponseStreamEvent", event) == []


def test_reasoning_is_in_one_place_and_sealed_only_where_asked() -> None:
    steps = [Delta({"reasoning_content": "hm"}), Delta({"content": "a"})]
    plain, message = events_of(steps, is_cut=False)[-1]["response"]["output"]
    assert (plain["summary"], plain["content"]) == ([], [{"type": "reasoning_text", "text": "hm"}])
    assert "encrypted_content" not in plain
    assert message["content"][0]["text"] == "a"
    summary, _ = events_of(steps, is_cut=False, as_summary=True, seals=True)[-1]["response"]["output"]
    assert summary["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert "content" not in summary
    assert SEALER.open(summary["encrypted_content"]) == "hm"


def test_blanks_before_a_call_open_no_message_and_a_call_without_arguments_has_some() -> None:
    begin: Any = {"index": 0, "id": "call_0", "type": "function", "function": {"name": "f", "arguments": ""}}
    events = events_of([Delta({"content": "\n"}), Delta({"tool_calls": [begin]})], is_cut=False)
    (call,) = events[-1]["response"]["output"]
    assert call["arguments"] == "{}"
    assert [e["delta"] for e in events if e["type"].endswith("delta")] == ["{}"]


def test_a_completed_response_without_text_has_an_empty_message() -> None:
    (message,) = events_of([Delta({"role": "assistant", "content": ""})], is_cut=False)[-1]["response"]["output"]
    assert message["content"][0]["text"] == ""
    assert events_of([Delta({"role": "assistant", "content": ""})], is_cut=True)[-1]["response"]["output"] == []
