from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.bench.bandwidth import read_bandwidth
from appliance.bench.decoder import CHUNK_TOKENS, DecoderBench
from appliance.engine.engine import Engine
from appliance.engine.types import Request, SamplingParams, StepPlan


class RecordingRunner:
    """Remembers the plans, and insists that a row holds what a plan counts on."""

    vocab_size = 50
    verify_width = None
    num_checkpoints = None
    num_slots = 8
    capacity = 1024

    def __init__(self) -> None:
        self.plans: list[StepPlan] = []
        self.num_filled = [0] * self.num_slots

    def run(self, plan: StepPlan) -> NDArray[np.float32]:
        self.plans.append(plan)
        for i, past in enumerate(plan.past_lens.tolist()):
            row = plan.first_slot + i
            assert past <= self.num_filled[row]
            self.num_filled[row] = max(self.num_filled[row], past + plan.input_ids.shape[1])
        return np.zeros((len(plan.logit_rows), self.vocab_size), np.float32)

    # The loads of a bench in the process fill each slot from its beginning, without drafts: moves between slots, or a
    # draft that is accepted, would be a fault.
    def copy_slot(self, source: int, target: int, num_tokens: int) -> None:
        raise NotImplementedError

    def swap_slots(self, a: int, b: int, num_tokens: int) -> None:
        raise NotImplementedError

    def accept_draft(self, slot: int, num_tokens: int) -> None:
        raise NotImplementedError

    def keep_state(self, slot: int, place: int) -> None:
        raise NotImplementedError

    def restore_state(self, place: int, slot: int) -> None:
        raise NotImplementedError


def test_decode_runs_over_a_row_that_is_really_filled() -> None:
    runner = RecordingRunner()
    bench = DecoderBench(runner)
    assert bench.decode_rate(1024, num_steps=3) > 0
    chunks, steps = runner.plans[:-4], runner.plans[-4:]
    assert [p.input_ids.size for p in chunks] == [256, 256, 256, 255]
    assert [(p.num_slots, p.past_lens.tolist()) for p in steps] == [(1, [1023])] * 4


def test_a_smaller_context_needs_no_prompt_again() -> None:
    runner = RecordingRunner()
    bench = DecoderBench(runner)
    bench.decode_rate(512, num_steps=1)
    num_plans = len(runner.plans)
    bench.decode_rate(128, num_steps=1)
    assert len(runner.plans) == num_plans + 2


def test_a_prompt_is_computed_anew_every_time_and_asks_for_one_row_of_logits() -> None:
    runner = RecordingRunner()
    bench = DecoderBench(runner)
    for _ in range(2):
        bench.prefill_rate(1024)
    assert [p.past_lens.tolist() for p in runner.plans] == [[0], [256], [512], [768]] * 2
    assert [p.logit_rows.tolist() for p in runner.plans] == [[], [], [], [255]] * 2


def test_a_prompt_is_cut_as_the_engine_cuts_it() -> None:
    runner = RecordingRunner()
    engine = Engine(runner)
    engine.add(Request("a", tuple(range(900)), SamplingParams(temperature=0, max_tokens=1)))
    while engine.has_work:
        engine.step()
    assert runner.plans[0].input_ids.size == CHUNK_TOKENS


@pytest.mark.parametrize("num_slots", [1, 2, 8])
def test_a_batch_steps_all_rows_together(num_slots: int) -> None:
    runner = RecordingRunner()
    DecoderBench(runner).batch_rate(num_slots, num_steps=2)
    assert [p.num_slots for p in runner.plans[-2:]] == [num_slots] * 2
    assert len(set(runner.plans[-1].past_lens.tolist())) == num_slots


def test_the_bandwidth_is_that_of_all_threads() -> None:
    assert read_bandwidth(2, size_bytes=1 << 16) > 0
