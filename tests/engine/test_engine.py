from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.engine.engine import Engine
from appliance.engine.scheduler import Scheduler
from appliance.engine.types import Admitted, Finished, FinishReason, Output, Request, Sampled, SamplingParams
from tests.engine.fake_runner import CountingRunner


def a_request(
    request_id: str, prompt: list[int], *, max_tokens: int = 8, temperature: float = 0.0, seed: int = 0, key: str = ""
) -> Request:
    params = SamplingParams(temperature=temperature, seed=seed, max_tokens=max_tokens, stop_token_ids=frozenset({999}))
    return Request(request_id, tuple(prompt), params, cache_key=key)


def run_all(engine: Engine, requests: list[Request]) -> dict[str, list[int]]:
    for request in requests:
        engine.add(request)
    return drain(engine)


def drain(engine: Engine) -> dict[str, list[int]]:
    tokens: dict[str, list[int]] = {}
    while engine.has_work:
        for output in engine.step():
            if isinstance(output, Sampled):
                tokens.setdefault(output.request_id, []).append(output.token)
    return tokens


def outputs_of(engine: Engine) -> list[Output]:
    outputs: list[Output] = []
    while engine.has_work:
        outputs += engine.step()
    return outputs


def test_a_greedy_request_counts_on_from_its_prompt() -> None:
    assert run_all(Engine(CountingRunner()), [a_request("a", [10, 20, 30], max_tokens=3)]) == {"a": [31, 32, 33]}


def test_each_output_is_one_thing_that_happened_and_the_last_one_is_the_end() -> None:
    engine = Engine(CountingRunner())
    engine.add(a_request("length", [1, 2], max_tokens=2))
    engine.add(a_request("stop", [996, 997], max_tokens=9))
    brought: dict[str, list[Output]] = {"length": [], "stop": []}
    for output in outputs_of(engine):
        brought[output.request_id].append(output)
    admitted = [Admitted("length", 0), Sampled("length", 3), Sampled("length", 4)]
    assert brought["length"] == [*admitted, Finished("length", FinishReason.LENGTH)]
    assert brought["stop"] == [Admitted("stop", 0), Sampled("stop", 998), Finished("stop", FinishReason.STOP)]


@pytest.mark.parametrize("num_checkpoints", [None, 0, 3, 40])  # None: a model without recurrent state
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_batched_output_equals_isolated_output_token_for_token(
    num_checkpoints: int | None, data: st.DataObject
) -> None:
    rng = random.Random(data.draw(st.integers(0, 10_000)))
    stems = [[rng.randrange(900) for _ in range(60)] for _ in range(2)]
    requests = [
        a_request(
            f"r{i}",
            rng.choice(stems)[: rng.randrange(61)] + [rng.randrange(900) for _ in range(rng.randrange(1, 70))],
            max_tokens=rng.randrange(1, 30),
            temperature=rng.choice([0.0, 0.7, 1.3]),
            seed=rng.randrange(1000),
            key=rng.choice(["", "other"]),
        )
        for i in range(rng.randrange(1, 12))
    ]
    isolated: dict[str, list[int]] = {}
    for request in requests:
        isolated.update(run_all(Engine(CountingRunner()), [request]))
    runner = CountingRunner(num_slots=rng.randrange(1, 6), num_checkpoints=num_checkpoints)
    engine = Engine(runner, Scheduler(chunk_size=16, idle_chunk_size=32))
    batched: dict[str, list[int]] = {}
    waiting = list(requests)
    while waiting or engine.has_work:
        while waiting and rng.random() < 0.3:
            engine.add(waiting.pop(0))
        for output in engine.step():
            if isinstance(output, Sampled):
                batched.setdefault(output.request_id, []).append(output.token)
    assert batched == isolated


def test_a_long_prompt_does_not_starve_a_running_stream() -> None:
    seconds = itertools.count()
    engine = Engine(CountingRunner(capacity=4096), Scheduler(), clock=lambda: float(next(seconds)))
    engine.add(a_request("stream", [1, 2], max_tokens=200))
    while not any(isinstance(o, Sampled) for o in engine.step()):
        pass
    engine.add(a_request("long", list(range(500)) * 3, max_tokens=1))
    engine.step()
    brought = []
    while "long" not in (ids := {o.request_id for o in engine.step()}):
        brought.append("stream" in ids)
    assert len(brought) >= 20
    assert (False, False) not in set(itertools.pairwise(brought))


def test_a_chunk_of_one_token_is_never_computed_alone() -> None:
    runner = CountingRunner(capacity=1024)
    engine = Engine(runner, Scheduler(chunk_size=16, idle_chunk_size=16))
    run_all(engine, [a_request("a", list(range(33)), max_tokens=1)])
    assert [plan.input_ids.shape for plan in runner.plans] == [(1, 16), (1, 15), (1, 2)]


def test_the_next_turn_of_a_chat_begins_where_the_last_one_ended() -> None:
    runner = CountingRunner()
    engine = Engine(runner)
    first = run_all(engine, [a_request("1", list(range(50)), max_tokens=10)])["1"]
    engine.add(a_request("2", [*range(50), *first, 7, 8, 9], max_tokens=2))
    admitted = engine.step()[0]
    assert admitted == Admitted("2", 59)  # the last token of the answer was sampled, never computed
    assert runner.plans[-1].input_ids.shape == (1, 4)


def test_prefixes_are_not_shared_between_keys() -> None:
    engine = Engine(CountingRunner())
    run_all(engine, [a_request("1", list(range(50)), key="alice")])
    engine.add(a_request("2", list(range(50)), key="bob"))
    assert engine.step()[0] == Admitted("2", 0)


def test_a_prompt_waits_for_another_one_that_computes_its_beginning() -> None:
    runner = CountingRunner()
    engine = Engine(runner)
    system = list(range(100))
    outputs = {}
    for i in range(3):
        engine.add(a_request(f"r{i}", [*system, 500 + i, 600 + i], max_tokens=2))
    for output in outputs_of(engine):
        if isinstance(output, Admitted):
            outputs[output.request_id] = output.num_cached_tokens
    assert outputs == {"r0": 0, "r1": 100, "r2": 100}


def test_cancelling_frees_the_slot_for_the_next_step() -> None:
    engine = Engine(CountingRunner(num_slots=1))
    engine.add(a_request("hog", [1, 2, 3], max_tokens=200))
    engine.add(a_request("next", [5, 6], max_tokens=1))
    engine.step()
    engine.cancel("hog")
    assert [type(o) for o in engine.step() if o.request_id == "next"] == [Admitted, Sampled, Finished]
    assert not engine.has_work


def test_a_queued_and_a_prefilling_request_can_be_cancelled() -> None:
    engine = Engine(CountingRunner(num_slots=1, capacity=4096), Scheduler(idle_chunk_size=16))
    engine.add(a_request("prefilling", list(range(64))))
    engine.add(a_request("queued", [1, 2]))
    engine.step()
    engine.cancel("queued")
    engine.cancel("prefilling")
    engine.cancel("unknown")
    assert not engine.has_work
    assert engine.stats().num_running == 0


def test_stats_count_what_happened() -> None:
    engine = Engine(CountingRunner())
    run_all(engine, [a_request("a", list(range(20)), max_tokens=5)])
    stats = engine.stats()
    assert (stats.num_prompt_tokens, stats.num_generated_tokens, stats.num_running) == (20, 5, 0)
