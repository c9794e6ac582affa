"""Every family's marks of reasoning: a limit closes it, a schema holds behind it, and no mark becomes content."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from appliance.engine.runtime.grammar import GrammarCompiler, Vocabulary
from appliance.server.v1.chat.message import MessageReader, joined
from appliance.server.v1.chat.prompt import ChatPlan, plan_chat
from appliance.server.v1.chat.response import ChatMessage
from appliance.server.v1.chat.wire import ChatRequest
from appliance.server.v1.choice import TextPiece
from appliance.text.reasoning import FAMILIES, ReasoningMarks
from appliance.text.template import ChatTemplate

_BUDGET = 9
_SCHEMA = {
    "type": "object",
    "properties": {"shelf": {"enum": ["left", "right"]}, "lit": {"type": "boolean"}},
    "required": ["shelf", "lit"],
    "additionalProperties": False,
}
_FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": _SCHEMA, "strict": True}}


class Model:
    """A vocabulary of bytes, with tokens for the marks or without, and a template that opens the reasoning."""

    def __init__(self, marks: ReasoningMarks, *, spells: bool) -> None:
        self.marks = marks
        special = [] if spells else [text for text in marks.texts if " " not in text]
        self.tokens = [*(bytes([code]) for code in range(256)), b"<end>", *(text.encode() for text in special)]
        self.special = {text: 257 + i for i, text in enumerate(special)}
        vocabulary = Vocabulary(self.tokens, [256, *self.special.values()], (256,), self.encode)
        source = "{{ messages[0].content }}" + marks.opening + marks.label + "\n{# " + " ".join(marks.texts) + " #}"
        self.side: Any = SimpleNamespace(
            template=ChatTemplate(source, ()),
            tokenizer=SimpleNamespace(
                encode_rendered=lambda rendered: self.encode(rendered.text), special_tokens=self.special
            ),
            engine=SimpleNamespace(check=lambda num_tokens: None, capacity=2048, keeps_states=False),
            grammars=GrammarCompiler(vocabulary, vocab_size=len(self.tokens)),
        )

    def encode(self, text: str) -> tuple[int, ...]:
        if text in self.special:
            return (self.special[text],)
        return tuple(text.encode())

    def plan(self, **fields: Any) -> ChatPlan:
        messages = [{"role": "user", "content": "Where is it?"}]
        return plan_chat(self.side, ChatRequest.model_validate({"model": "m", "messages": messages, **fields}))

    def say(self, plan: ChatPlan, seed: int) -> list[int]:
        """Sample printable tokens and marks as an untrained model does, within the constraint."""
        [constraint] = plan.constraints
        assert constraint is not None
        rng = np.random.default_rng(seed)
        likely = np.full(len(self.tokens), -30.0, np.float32)
        likely[32:127] = 0.0
        likely[257:] = 1.0
        said: list[int] = []
        while not constraint.is_complete and len(said) < 400:
            logits = likely + rng.gumbel(size=len(likely)).astype(np.float32)
            constraint.apply(logits)
            token = int(logits.argmax())
            constraint.accept(token)
            said += [token, *constraint.fast_forward_tokens()]
        assert constraint.is_complete
        return said


def read(plan: ChatPlan, pieces: list[str]) -> ChatMessage:
    reader = MessageReader(0, plan.tools, plan.splitter())
    deltas = [delta for piece in pieces for delta in reader.read(TextPiece(piece))]
    return joined([*deltas, *reader.read(TextPiece("", finish_reason="stop"))])


@pytest.mark.parametrize("spells", [False, True], ids=["by tokens", "spelled"])
@pytest.mark.parametrize("marks", FAMILIES, ids=lambda marks: str(marks.texts[-1]))
def test_a_limit_closes_the_reasoning_and_the_schema_holds_behind_it(marks: ReasoningMarks, spells: bool) -> None:
    model = Model(marks, spells=spells)
    for seed in range(5):
        plan = model.plan(response_format=_FORMAT, thinking_token_budget=_BUDGET)
        assert plan.starts_inside_reasoning
        assert plan.marks == marks
        tokens = model.say(plan, seed)
        hidden = {256, *model.special.values()} - {model.special.get(text) for text in plan.visible}
        pieces = ["" if token in hidden else model.tokens[token].decode("latin-1") for token in tokens]
        text = "".join(pieces)
        message = read(plan, pieces)
        assert message["content"] is not None
        assert set(json.loads(message["content"])) == {"shelf", "lit"}
        assert not [mark for mark in marks.texts if mark in message["content"]]
        assert text.index(marks.end) <= _BUDGET * max(map(len, ["x", *(t for t in marks.texts if not spells)]))
        assert read(plan, [text]) == read(plan, list(text)) == message


@pytest.mark.parametrize("marks", FAMILIES, ids=lambda marks: str(marks.texts[-1]))
def test_a_call_behind_the_reasoning_is_read_as_one(marks: ReasoningMarks) -> None:
    model = Model(marks, spells=False)
    tool = {"type": "function", "function": {"name": "place", "parameters": _SCHEMA, "strict": True}}
    plan = model.plan(tools=[tool], tool_choice="required", thinking_token_budget=_BUDGET)
    text = "".join(model.tokens[token].decode("latin-1") for token in model.say(plan, 3))
    whole = read(plan, [text])
    [call] = whole["tool_calls"]
    assert call["function"]["name"] == "place"
    assert set(json.loads(call["function"]["arguments"])) == {"shelf", "lit"}
    assert whole["content"] is None
    for at in range(len(text)):
        other = read(plan, [text[:at], text[at:]])
        assert other.get("reasoning_content") == whole.get("reasoning_content")
        assert [c["function"] for c in other["tool_calls"]] == [call["function"]]


@pytest.mark.parametrize("marks", FAMILIES, ids=lambda marks: str(marks.texts[-1]))
def test_a_message_is_the_same_wherever_its_stream_is_cut(marks: ReasoningMarks) -> None:
    plan = Model(marks, spells=True).plan()
    said = f"{marks.answer}It is {marks.end[:2]} there.{marks.answer_end}"
    text = f"So < it [ is |.\n{marks.end}\n\n{said}"
    whole = read(plan, [text])
    assert (whole["reasoning_content"], whole["content"]) == ("So < it [ is |.", f"It is {marks.end[:2]} there.")
    for a, b in itertools.combinations(range(len(text)), 2):
        assert read(plan, [text[:a], text[a:b], text[b:]]) == whole
