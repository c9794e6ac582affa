"""Recurrent states at checkpoints: the tokens that a prompt does not read again."""

from __future__ import annotations

import random

import pytest

from appliance.engine.checkpoints import DISTANCE, Checkpoint, Held, borders_of, num_places, weakest, with_border
from appliance.engine.engine import Engine
from appliance.engine.types import Admitted, Request, Sampled, SamplingParams
from tests.engine.fake_runner import CountingRunner

TAIL = 8  # tokens before the end of a prompt at which its state is kept


def an_engine(*, num_slots: int = 4, num_checkpoints: int = 40) -> Engine:
    return Engine(CountingRunner(num_slots=num_slots, capacity=8192, num_checkpoints=num_checkpoints))


def ask(engine: Engine, *prompts: list[int], num_new: int = 6, key: str = "") -> tuple[list[int], list[list[int]]]:
    """Return the cached tokens and the completions of prompts that are sent together."""
    cached: dict[str, int] = {}
    answers: dict[str, list[int]] = {}
    params = SamplingParams(temperature=0.0, max_tokens=num_new)
    for i, prompt in enumerate(prompts):
        engine.add(Request(str(i), tuple(prompt), params, cache_key=key))
    while engine.has_work:
        for output in engine.step():
            if isinstance(output, Admitted):
                cached[output.request_id] = output.num_cached_tokens
            elif isinstance(output, Sampled):
                answers.setdefault(output.request_id, []).append(output.token)
    return [cached[str(i)] for i in range(len(prompts))], [answers[str(i)] for i in range(len(prompts))]


def text(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(900), k=length)


def test_the_next_turn_reads_the_new_message_alone() -> None:
    engine = an_engine()
    first = text(1, 2000)
    _, [answer] = ask(engine, first, num_new=30)
    cached, again = ask(engine, [*first, *answer, *text(2, 50)])
    assert cached == [2000 + 29]  # the last token of the answer was sampled, never computed
    assert again == ask(an_engine(), [*first, *answer, *text(2, 50)])[1]


def test_a_turn_whose_template_drops_the_end_of_the_prompt_starts_just_before_it() -> None:
    engine = an_engine()
    first = text(1, 700)
    ask(engine, first, num_new=30)
    assert ask(engine, [*first[:-4], *text(2, 50)])[0] == [700 - TAIL]


def test_an_edited_message_starts_at_most_one_distance_before_the_edit_and_then_right_at_it() -> None:
    engine = an_engine()
    history = text(1, 1500)
    ask(engine, [*history, *text(2, 60)])
    [first], _ = ask(engine, [*history, *text(3, 60)])
    assert 1500 - DISTANCE < first <= 1500
    [second], answer = ask(engine, [*history, *text(4, 60)])
    assert second == 1500
    assert answer == ask(an_engine(), [*history, *text(4, 60)])[1]


def test_a_border_that_a_request_tells_spares_the_first_edit_too() -> None:
    engine = an_engine()
    history = text(1, 500)
    params = SamplingParams(temperature=0.0, max_tokens=3)
    engine.add(Request("first", (*history, *text(2, 100)), params, borders=(500,)))
    while engine.has_work:
        engine.step()
    assert ask(engine, [*history, *text(3, 60)])[0] == [500]


def test_a_shared_system_prompt_is_read_once_by_requests_that_come_together() -> None:
    system = text(1, 500)
    prompts = [[*system, *text(i, 40)] for i in range(2, 6)]
    engine = an_engine()
    cached, answers = ask(engine, *prompts)
    assert cached == [0, 500, 500, 500]
    assert answers == [ask(an_engine(), prompt)[1][0] for prompt in prompts]
    stats = engine.stats()
    assert stats.num_prompt_tokens - stats.num_cached_tokens == 540 + 3 * 40


def test_two_chats_with_one_system_prompt_both_go_on_while_there_are_slots() -> None:
    engine = an_engine()
    system = text(1, 600)
    chats = [[*system, *text(i, 300)] for i in (2, 3)]
    for chat in chats:
        _, [answer] = ask(engine, chat)
        chat += [*answer, *text(4, 40)]
    for chat in chats:
        cached, answers = ask(engine, chat)
        assert cached == [len(chat) - 41]
        assert answers == ask(an_engine(), chat)[1]


def test_choices_of_one_prompt_read_it_once() -> None:
    prompt = text(1, 300)
    cached, answers = ask(an_engine(), *[prompt] * 4)
    assert cached == [0, *[300 - TAIL] * 3]
    assert answers == ask(an_engine(), prompt)[1] * 4


def test_a_long_answer_can_be_cut_within_a_distance() -> None:
    engine = an_engine()
    _, [answer] = ask(engine, text(1, 300), num_new=700)
    [cached], _ = ask(engine, [*text(1, 300), *answer[:650], *text(2, 30)])
    assert 950 - DISTANCE < cached <= 950


def test_other_keys_share_nothing() -> None:
    engine = an_engine()
    ask(engine, text(1, 600), key="alice")
    assert ask(engine, text(1, 600), key="bob")[0] == [0]


def test_a_prompt_does_not_wait_for_one_that_keeps_no_state_for_it() -> None:
    engine = an_engine(num_checkpoints=0)
    system = text(1, 500)
    cached, _ = ask(engine, [*system, *text(2, 40)], [*system, *text(3, 40)])
    assert cached == [0, 0]


def test_without_places_a_chat_still_goes_on() -> None:
    engine = an_engine(num_checkpoints=0)
    _, [answer] = ask(engine, text(1, 400))
    assert ask(engine, [*text(1, 400), *answer, *text(2, 40)])[0] == [405]
    assert ask(engine, [*text(1, 300), *text(3, 40)])[0] == [0]


def test_with_few_places_what_is_left_lies_far_apart_and_ends_of_prompts_stay() -> None:
    engine = an_engine(num_slots=1, num_checkpoints=3)
    prompt = text(1, 2000)
    ask(engine, prompt)
    assert ask(engine, [*prompt[:-4], *text(2, 40)])[0] == [2000 - TAIL]
    [middle], _ = ask(engine, [*prompt[:1300], *text(3, 40)])
    assert middle >= 512


def test_a_prompt_that_scores_itself_keeps_nothing() -> None:
    engine = an_engine()
    params = SamplingParams(temperature=0.0, max_tokens=1, num_logprobs=0)
    engine.add(Request("scored", tuple(text(1, 600)), params, scores_prompt=True))
    while engine.has_work:
        engine.step()
    assert ask(engine, text(1, 600))[0] == [0]


def test_plans_never_cut_off_a_single_token() -> None:
    for num_prompt in range(2, 700, 7):
        engine = an_engine()
        runner = engine._runner
        assert isinstance(runner, CountingRunner)
        ask(engine, text(1, 400))
        ask(engine, [*text(1, 400)[: num_prompt // 2], *text(2, num_prompt - num_prompt // 2)], num_new=1)
        assert all(plan.input_ids.shape[1] > 1 for plan in runner.plans if plan.variant == "prompt")


@pytest.mark.parametrize(
    ("num_prompt", "num_cached", "num_shared", "expected"),
    [
        (700, 0, 0, [692]),
        (700, 256, 400, [400, 692]),
        (700, 600, 600, [692]),
        (700, 0, 690, [690]),  # the end is too near behind it
        (30, 0, 0, []),
        (700, 680, 680, []),
    ],
)
def test_borders_save_more_than_they_cost(
    num_prompt: int, num_cached: int, num_shared: int, expected: list[int]
) -> None:
    assert borders_of(num_prompt, num_cached, [num_shared]) == expected


def test_a_border_that_another_prompt_asks_for_is_added_once() -> None:
    assert with_border([692], 400) == [400, 692]
    assert with_border([400, 692], 410) == [400, 692]
    assert with_border([400, 692], 390) == [390, 400, 692]


def test_the_checkpoint_that_saves_least_gives_way() -> None:
    a, b, end = Checkpoint(0, 256, False), Checkpoint(1, 700, False), Checkpoint(2, 710, True)
    assert weakest([Held([a, b, end], 5)]) is a
    other = Checkpoint(3, 256, False)
    assert weakest([Held([a, b, end], 5), Held([other], 2)]) is other
    assert weakest([Held([end], 5)]) is end


def test_places_are_as_many_as_fit_and_as_full_slots_can_use() -> None:
    assert num_places(10, 95, num_slots=4, capacity=2048) == 9
    assert num_places(10, 10_000, num_slots=4, capacity=2048) == 40
    assert num_places(0, 10_000, num_slots=4, capacity=2048) == 0
