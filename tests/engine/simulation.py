"""The engine over a model without weights, in virtual time: chunks and decode steps cost what they cost on a board."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from appliance.engine.engine import Engine
from appliance.engine.types import Request, Sampled, SamplingParams, StepPlan
from tests.engine.fake_runner import CountingRunner

_CHUNK_TOKEN_S = 1 / 1400
_DECODE_S = (0.0, 0.006, 0.0075, 0.009, 0.011)  # of 1 to 4 rows


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that somebody sends at a time."""

    at_s: float
    user: str
    num_prompt: int
    num_output: int


@dataclass(slots=True)
class Outcome:
    """The waiting times of each user's requests for their first token, and the end of the simulation."""

    first_token_s: dict[str, list[float]] = field(default_factory=dict)
    end_s: float = 0.0


class TimedRunner(CountingRunner):
    """Each step moves a clock."""

    now_s = 0.0

    def run(self, plan: StepPlan) -> NDArray[np.float32]:
        is_decode = plan.input_ids.shape[1] == 1
        self.now_s += _DECODE_S[plan.num_slots] if is_decode else plan.input_ids.size * _CHUNK_TOKEN_S
        return super().run(plan)


def simulate(trace: list[Arrival], *, num_slots: int) -> Outcome:
    """Run a trace to its end."""
    runner = TimedRunner(num_slots=num_slots, capacity=4096)
    engine = Engine(runner, clock=lambda: runner.now_s)
    arrivals = sorted(enumerate(trace), key=lambda pair: pair[1].at_s)
    by_id = {f"r{i}": arrival for i, arrival in arrivals}
    outcome = Outcome()
    started: set[str] = set()
    while arrivals or engine.has_work:
        if not engine.has_work:
            runner.now_s = max(runner.now_s, arrivals[0][1].at_s)
        while arrivals and arrivals[0][1].at_s <= runner.now_s:
            i, arrival = arrivals.pop(0)
            prompt = tuple((7 * i + k) % 900 for k in range(arrival.num_prompt))
            params = SamplingParams(temperature=0.0, max_tokens=arrival.num_output)
            engine.add(Request(f"r{i}", prompt, params, cache_key=arrival.user))
        for output in engine.step():
            if isinstance(output, Sampled) and output.request_id not in started:
                started.add(output.request_id)
                arrival = by_id[output.request_id]
                outcome.first_token_s.setdefault(arrival.user, []).append(runner.now_s - arrival.at_s)
    outcome.end_s = runner.now_s
    return outcome
