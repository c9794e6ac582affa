"""The choice between Lantern's kernels and the stock operators, and its record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.engine.runtime.kernel_choice import (
    RECORD_NAME,
    KernelChoice,
    Sessions,
    Speed,
    choose,
    measure_in_turn,
)
from appliance.engine.runtime.tuning import Tuning, tune


@pytest.mark.parametrize(
    ("stock", "kernels", "chosen"),
    [
        (Speed(10, 10), Speed(9, 9), (True, True)),
        (Speed(10, 10), Speed(9.1, 9.1), (False, False)),
        (Speed(10, 10), Speed(9, 11), (True, True)),  # not worth the weights a second time
        (Speed(10, 10), Speed(9, 11.2), (True, False)),
        (Speed(10, 10), Speed(9.5, 8), (False, True)),
        (Speed(10, 10), Speed(20, 20), (False, False)),
    ],
)
def test_the_kernels_are_taken_where_they_save_a_tenth(stock: Speed, kernels: Speed, chosen: tuple[bool, bool]) -> None:
    choice = choose("avx2", stock, kernels)
    assert (choice.for_answers, choice.for_prompts) == chosen
    isolated = choose("avx2", stock, kernels, stock_rows_are_equal=False)
    assert isolated.for_answers
    assert isolated.for_prompts
    assert isolated.describe().endswith("load would change answers here")


@dataclass
class FakeClock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class FakeInput:
    name: str
    shape: tuple[int, ...] = ()
    type: str = "tensor(int64)"


@dataclass
class FakeSession:
    """Moves the clock by some seconds a run and some a token; the first run that is not the only one is disturbed."""

    clock: FakeClock
    run_s: float
    token_s: float
    num_runs: int = 0
    longest: int = 0

    def get_inputs(self) -> list[FakeInput]:
        return [FakeInput(name) for name in ("input_ids", "seqlens_k", "total_sequence_length", "logit_rows")]

    def run(self, _: None, feeds: dict[str, NDArray[np.int64]]) -> None:
        num_tokens = feeds["input_ids"].shape[1]
        self.num_runs += 1
        self.longest = max(self.longest, num_tokens)
        disturbance = 7.0 if self.num_runs % 5 == 2 else 1.0
        self.clock.now_s += disturbance * (self.run_s + num_tokens * self.token_s)


def fake_form(clock: FakeClock, token_s: float, prompt_s: float) -> tuple[Sessions, FakeSession]:
    prompt = FakeSession(clock, 0.0, prompt_s)
    sessions = Sessions(cast("Any", FakeSession(clock, token_s, 0.0)), cast("Any", prompt))
    return sessions, prompt


def test_the_speeds_are_those_of_runs_that_nothing_disturbed() -> None:
    clock = FakeClock()
    stock, prompt = fake_form(clock, 0.006, 0.001)
    ours, _ = fake_form(clock, 0.004, 0.0005)
    speeds = measure_in_turn([stock, ours], clock=clock)
    assert [(round(s.token_s, 6), round(s.prompt_s, 6)) for s in speeds] == [(0.006, 0.001), (0.004, 0.0005)]
    assert prompt.longest == 128


def test_a_slow_board_is_measured_by_short_rounds() -> None:
    clock = FakeClock()
    (stock, prompt), (ours, _) = fake_form(clock, 2.0, 0.4), fake_form(clock, 1.0, 0.2)
    measure_in_turn([stock, ours], clock=clock)
    assert prompt.longest == 16
    assert prompt.num_runs == 2


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    for equal in (True, False):
        choice = choose("neon", Speed(10, 10), Speed(5, 20), stock_rows_are_equal=equal)
        choice.write(tmp_path)
        assert KernelChoice.read(tmp_path) == choice
    assert KernelChoice.read(tmp_path / "absent") is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"family": "neon"}', "\x00"])
def test_a_record_that_cannot_be_read_is_as_if_there_were_none(tmp_path: Path, content: str) -> None:
    (tmp_path / RECORD_NAME).write_text(content)
    assert KernelChoice.read(tmp_path) is None


def test_a_board_that_is_too_slow_to_tune_takes_the_threads_of_the_stock_form() -> None:
    slow = FakeSession(FakeClock(), 0.0, 0.0)
    assert tune(lambda *_: cast("Any", slow), 4, budget_s=-1.0, default=Tuning(3, False)) == Tuning(3, False)
