"""A template that opens reasoning: efforts of none and minimal switch it off, and a schema holds behind it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from appliance.engine.runtime.grammar import GrammarCompiler, GrammarConstraint, Vocabulary
from appliance.engine.runtime.reasoning import ReasoningConstraint
from appliance.server.v1.chat.prompt import ChatPlan, plan_chat
from appliance.server.v1.chat.wire import ChatRequest
from appliance.text.template import ChatTemplate

_END = 256
# As Qwen3.5's does: reasoning is open, or closed before it began.
_TEMPLATE = (
    "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n"
    "{% if enable_thinking is defined and not enable_thinking %}\n</think>\n\n{% endif %}"
)


def plan(template: str = _TEMPLATE, **fields: Any) -> ChatPlan:
    vocabulary = Vocabulary(
        [*(bytes([code]) for code in range(_END)), b"<end>"], [_END], (_END,), lambda text: list(text.encode())
    )
    model: Any = SimpleNamespace(
        template=ChatTemplate(template, ()),
        tokenizer=SimpleNamespace(encode_rendered=lambda rendered: tuple(rendered.text.encode()), special_tokens={}),
        engine=SimpleNamespace(check=lambda num_tokens: None, capacity=2048, keeps_states=False),
        grammars=GrammarCompiler(vocabulary, vocab_size=_END + 1),
    )
    messages = [{"role": "user", "content": "Hello"}]
    wire = ChatRequest.model_validate({"model": "m", "messages": messages, **fields})
    return plan_chat(model, wire)


@pytest.mark.parametrize("effort", ["none", "minimal"])
def test_no_effort_closes_the_reasoning_and_the_schema_holds_at_once(effort: str) -> None:
    found = plan(reasoning_effort=effort, response_format={"type": "json_object"})
    assert not found.starts_inside_reasoning
    assert bytes(found.prompt).endswith(b"</think>\n\n")
    assert isinstance(found.constraints[0], GrammarConstraint)


@pytest.mark.parametrize("fields", [{}, {"reasoning_effort": "high"}])
def test_a_schema_waits_for_the_end_of_the_reasoning(fields: dict[str, Any]) -> None:
    found = plan(response_format={"type": "json_object"}, **fields)
    assert found.starts_inside_reasoning
    assert isinstance(found.constraints[0], ReasoningConstraint)


def test_a_request_s_own_switch_goes_before_its_effort() -> None:
    assert plan(reasoning_effort="none", chat_template_kwargs={"enable_thinking": True}).starts_inside_reasoning


@pytest.mark.parametrize("fields", [{}, {"thinking_token_budget": -1}, {"thinking_token_budget": None}])
def test_an_answer_without_a_schema_or_a_limit_stays_free(fields: dict[str, Any]) -> None:
    assert plan(**fields).constraints == (None,)


def test_an_effort_switches_the_reasoning_on_where_a_template_leaves_it_off() -> None:
    for name in ("enable_thinking", "thinking"):
        template = "{{ messages[0].content }}{% if " + name + " %}<think>{% endif %}"
        assert plan(template, reasoning_effort="low").starts_inside_reasoning
        assert plan(template, chat_template_kwargs={"enable_thinking": True}).starts_inside_reasoning
        assert not plan(template, reasoning_effort="none").starts_inside_reasoning
        assert not plan(template).starts_inside_reasoning


def test_each_choice_has_a_limit_of_its_own() -> None:
    first, second = plan(thinking_token_budget=0, n=2).constraints
    assert first is not None
    assert second is not None
    while first.fast_forward_tokens():
        pass
    logits = np.zeros(_END + 1, np.float32)
    second.apply(logits)
    assert list(np.flatnonzero(np.isfinite(logits))) == [ord("<")]
