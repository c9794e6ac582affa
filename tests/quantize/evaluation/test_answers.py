"""Answers are greedy, end at a stop token, and are judged by rule."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.engine.types import StepPlan
from quantize.evaluation.answers import continue_greedily, task_metrics
from quantize.evaluation.findings import AnswerPair
from quantize.evaluation.tasks import TASKS, exact_json, number, says


class Counting:
    """A model that continues 5 with 6, 6 with 7, and so on; it checks that each step follows the last."""

    num_slots = 3
    capacity = 64
    vocab_size = 40
    verify_width = None
    num_checkpoints = None

    def __init__(self) -> None:
        self._lens = [0] * self.num_slots

    def run(self, plan: StepPlan) -> NDArray[np.float32]:
        for row, past in enumerate(plan.past_lens.tolist(), start=plan.first_slot):
            assert past == self._lens[row]
            self._lens[row] += plan.input_ids.shape[1]
        tokens = plan.input_ids.reshape(-1)[plan.logit_rows]
        return np.eye(self.vocab_size, dtype=np.float32)[(tokens + 1) % self.vocab_size]

    def copy_slot(self, source: int, target: int, num_tokens: int) -> None: ...

    def swap_slots(self, a: int, b: int, num_tokens: int) -> None: ...

    # Answers are measured of models whose cache is keys and values, without drafts (`verify_width` is None): a state
    # that is kept here, or a draft that is accepted, would be a fault.
    def accept_draft(self, slot: int, num_tokens: int) -> None:
        raise NotImplementedError

    def keep_state(self, slot: int, place: int) -> None:
        raise NotImplementedError

    def restore_state(self, place: int, slot: int) -> None:
        raise NotImplementedError


def test_each_row_goes_on_until_its_own_stop_token_or_the_limit() -> None:
    found = continue_greedily(Counting(), [[3, 4, 5], [17], [8, 9]], frozenset({20}), max_tokens=5)
    assert found == [[6, 7, 8, 9, 10], [18, 19], [10, 11, 12, 13, 14]]


def test_no_step_is_run_after_the_last_row_has_stopped() -> None:
    assert continue_greedily(Counting(), [[18], [19], [19]], frozenset({20}), max_tokens=60) == [[19], [], []]


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [("12", True), ("7 + 5 = 12.", True), ("It is 1,2", True), ("13", False), ("", False), ("twelve", False)],
)
def test_a_number_is_right_when_it_is_the_last_one_said(answer: str, is_right: bool) -> None:
    assert number(12)(answer) is is_right


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        ('{"a": 1}', True),
        ('```json\n{"a": 1}\n```', True),
        ('Sure: {"a": 1}', False),
        ("{'a': 1}", False),
        ("[" * 10_000, False),
    ],
)
def test_json_is_right_when_nothing_else_is_said(answer: str, is_right: bool) -> None:
    assert exact_json({"a": 1})(answer) is is_right


def test_words_are_found_whatever_their_case() -> None:
    assert says("Lyon")("In LYON, of course.")
    assert not says("Lyon")("In Paris.")


def test_tasks_are_counted_before_and_after_and_open_questions_are_not() -> None:
    answers = [AnswerPair("a", "", "", True, False), AnswerPair("b", "", "", True, True), AnswerPair("c", "x", "y")]
    assert task_metrics(answers) == {"tasks": 2.0, "tasks_right": 1.0, "tasks_right_float": 2.0}


def test_no_task_is_answered_by_its_own_question() -> None:
    assert not [task.question for task in TASKS if task.is_right("")]
