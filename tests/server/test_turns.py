"""Any history is rendered by the templates of every family, with every word that was written."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import InvalidRequestError
from appliance.server.v1.turn import Call, Turn
from appliance.server.v1.turns import messages_of, render_turns
from appliance.text.conventions import Conventions
from appliance.text.template import ChatTemplate
from tests.server.chat_templates import CHATML, GEMMA, GEMMA_1, LLAMA, MISTRAL, QWEN, TEMPLATES

TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}
ASKED, SYSTEM = Turn("user", "Weather?"), Turn("system", "Be brief.")
CALL_1, CALL_2 = Call("f", '{"a": 1}', "call_1"), Call("f", '{"a": 2}', "call_2")
BOTH = Turn("assistant", calls=(CALL_1, CALL_2))
SUN, RAIN = Turn("tool", "Sun.", call_id="call_1"), Turn("tool", "Rain.", call_id="call_2")
LOADED = {name: ChatTemplate(source, []) for name, source in TEMPLATES.items()}


def rendered(name: str, *turns: Turn, with_tools: bool = True) -> str:
    template = LOADED[name]
    return render_turns(template, turns, tools=[TOOL] if with_tools and template.supports_tools else None).text


def test_the_rules_of_a_template_are_found_by_trying_it() -> None:
    def rules(source: str) -> Conventions:
        return ChatTemplate(source, []).conventions

    assert rules(QWEN) == Conventions()
    assert rules(CHATML) == Conventions(takes_calls=False)
    assert rules(GEMMA) == Conventions(
        takes_neighbours=False, takes_assistant_first=False, takes_calls=False, takes_parallel_calls=False
    )
    assert not rules(GEMMA_1).takes_system
    assert rules(MISTRAL) == Conventions(
        takes_system=False, takes_neighbours=False, takes_assistant_first=False, takes_long_ids=False
    )
    assert rules(LLAMA) == Conventions(takes_assistant_first=False, takes_parallel_calls=False)


def test_a_conversation_that_a_template_takes_is_left_as_it_is() -> None:
    turns = [SYSTEM, ASKED, ASKED, BOTH, SUN, RAIN, Turn("assistant", "Both."), Turn("assistant", "Done.")]
    messages = messages_of(turns, Conventions(), knows_tools=True)
    assert [m["role"] for m in messages] == [turn.role for turn in turns]
    assert messages[3]["tool_calls"][1] == {
        "id": "call_2",
        "type": "function",
        "function": {"name": "f", "arguments": '{"a": 2}'},
    }


def test_two_results_and_a_question_are_one_turn_where_roles_alternate() -> None:
    text = rendered("gemma", ASKED, BOTH, SUN, RAIN, Turn("user", "And now?"))
    assert text.count("<|user|>") == 2
    assert text.index("Sun.") < text.index("Rain.") < text.index("And now?")


def test_a_question_behind_a_result_gets_an_empty_answer_before_it_where_calls_do_not_count() -> None:
    text = rendered("mistral", ASKED, BOTH, SUN, RAIN, Turn("user", "And now?"))
    assert text.endswith("[RESULT]Sun.000000001[RESULT]Rain.000000002 </s>[TOOLS]" + text.split("[TOOLS]")[1])
    assert text.endswith("[INST]And now?[/INST]")


def test_parallel_calls_come_one_by_one_where_a_message_has_one_call() -> None:
    text = rendered("llama", ASKED, BOTH, SUN, RAIN)
    assert text.index('"a": 1') < text.index("Sun.") < text.index('"a": 2') < text.index("Rain.")


def test_a_system_message_is_folded_into_the_first_question_where_there_is_no_such_role() -> None:
    assert rendered("gemma 1", SYSTEM, ASKED) == "<|user|>Be brief.\n\nWeather?<|model|>"
    assert "Be brief." in rendered("gemma 1", SYSTEM)
    assert "Be brief." in rendered("gemma", SYSTEM)


def test_an_assistant_that_begins_is_not_taken_for_the_user() -> None:
    text = rendered("llama", Turn("assistant", "How can I help?"), ASKED)
    assert "<|assistant|>How can I help?" in text


def test_a_template_that_wants_a_users_message_gets_the_system_message_as_one() -> None:
    assert "<|user|>Be brief." in rendered("needs a user", SYSTEM)


def test_a_template_that_takes_nothing_says_why() -> None:
    template = ChatTemplate("{{ raise_exception('Never.') }}", [])
    with pytest.raises(InvalidRequestError, match="refuses these messages: Never"):
        render_turns(template, [ASKED])


_TEXTS = st.text(max_size=12) | st.sampled_from(["Hi.", '{"a": 1}', "", "\n", "<|user|>"])
_ARGUMENTS = st.sampled_from(['{"city": "Paris"}', '{"city": "Par', "[1]", '"x"', "null", "", "{", "1e999"]) | _TEXTS
_NAMES = st.sampled_from(["f", "get_weather"])


@st.composite
def histories(draw: st.DrawFn) -> list[Turn]:
    """Draw turns in any order, each with a word of its own; results answer any earlier call, or calls stay open."""
    turns: list[Turn] = []
    ids: list[str] = []
    for i in range(draw(st.integers(1, 8))):
        role = draw(st.sampled_from(["system", "user", "assistant", "tool", "tool"] if ids else ["user", "assistant"]))
        content = draw(st.sampled_from(["", f"word{i}."])) + draw(_TEXTS)
        if role == "tool":
            turns.append(Turn("tool", content, call_id=draw(st.sampled_from([*ids, None]))))
        elif role == "assistant":
            num_calls = draw(st.integers(0, 3))
            names = [f"call_{i}_{j}" for j in range(num_calls)]
            calls = tuple(Call(draw(_NAMES), draw(_ARGUMENTS), draw(st.sampled_from([n, None]))) for n in names)
            ids += [call.id for call in calls if call.id is not None]
            reasoning = draw(st.none() | _TEXTS)
            turns.append(Turn("assistant", content, reasoning, calls))
        else:
            turns.append(Turn("system" if role == "system" else "user", content))
    return turns


def assert_renders(template: ChatTemplate, turns: list[Turn], *, with_tools: bool) -> None:
    tools = [TOOL] if with_tools and template.supports_tools else None
    text = render_turns(template, turns, tools=tools).text
    # Neighbours of one role are one turn to some templates, and some leave out what an assistant says beside its calls.
    runs = [list(run) for _, run in itertools.groupby(turns, key=lambda turn: turn.role)]
    told = [turn for run in runs if run[0].role != "assistant" or not any(t.calls for t in run) for turn in run]
    words = [turn.content.partition(".")[0] for turn in told if turn.content.startswith("word")]
    assert all(word in text for word in words), (words, text)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=150, deadline=None)
@given(turns=histories(), with_tools=st.booleans())
def test_every_history_is_rendered_with_its_words(name: str, turns: list[Turn], with_tools: bool) -> None:
    assert_renders(LOADED[name], turns, with_tools=with_tools)
