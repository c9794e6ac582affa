"""The place in the queue and the progress of a prompt, told to the requests that ask."""

from __future__ import annotations

from dataclasses import replace

from appliance.engine.engine import Engine
from appliance.engine.scheduler import Scheduler
from appliance.engine.types import Admitted, Output, PromptComputed, Queued, Request, Sampled
from tests.engine.fake_runner import CountingRunner
from tests.engine.test_engine import a_request, outputs_of


def asking(request: Request) -> Request:
    return replace(request, tells_progress=True)


def places(outputs: list[Output]) -> list[tuple[str, int]]:
    return [(output.request_id, output.place) for output in outputs if isinstance(output, Queued)]


def test_a_waiting_request_is_told_its_place_when_it_changes_and_no_more_with_its_slot() -> None:
    engine = Engine(CountingRunner(num_slots=1))
    engine.add(a_request("runs", [1, 2], max_tokens=3))
    for name in ("a", "b", "silent", "c"):
        request = a_request(name, [1, 2], max_tokens=3)
        engine.add(request if name == "silent" else asking(request))
    assert places(engine.step()) == [("a", 1), ("b", 2), ("c", 4)]
    assert places(engine.step()) == []
    engine.cancel("silent")
    assert places(engine.step()) == [("c", 3)]
    rest = outputs_of(engine)
    assert places(rest) == [("b", 1), ("c", 2), ("c", 1)]
    for name in "abc":
        kinds = [type(output) for output in rest if output.request_id == name and not isinstance(output, Queued)]
        assert kinds[:2] == [Admitted, PromptComputed]


def test_places_follow_the_order_in_which_keys_are_served() -> None:
    engine = Engine(CountingRunner(num_slots=1))
    engine.add(a_request("runs", [1, 2], max_tokens=2, key="flood"))
    engine.step()
    engine.add(asking(a_request("flood", [1, 2], key="flood")))
    engine.add(asking(a_request("other", [1, 2], key="other")))
    assert places(outputs_of(engine))[:2] == [("other", 1), ("flood", 2)]


def test_a_prompt_tells_its_tokens_after_each_chunk_and_the_prefix_that_it_need_not_compute() -> None:
    engine = Engine(CountingRunner(capacity=128), Scheduler(chunk_size=8, idle_chunk_size=8))
    engine.add(asking(a_request("a", list(range(20)), max_tokens=1)))
    told = [output for output in outputs_of(engine) if not isinstance(output, Sampled)][:-1]
    assert told == [Admitted("a", 0), *(PromptComputed("a", count) for count in (8, 16, 20))]
    engine.add(asking(a_request("b", [*range(20), 500, 501], max_tokens=1)))
    admitted, *chunks = [output for output in outputs_of(engine) if isinstance(output, Admitted | PromptComputed)]
    assert isinstance(admitted, Admitted)
    assert admitted.num_cached_tokens > 0
    assert chunks == [PromptComputed("b", 22)]


def test_tokens_are_the_same_with_progress_and_nothing_is_told_that_was_not_asked_for() -> None:
    def run(*, asks: bool) -> list[Output]:
        engine = Engine(CountingRunner(num_slots=2), Scheduler(chunk_size=4, idle_chunk_size=4))
        for i in range(5):
            request = a_request(f"r{i}", [i, *range(100, 110 + i)], temperature=1.0, seed=i)
            engine.add(asking(request) if asks else request)
        return outputs_of(engine)

    told, silent = run(asks=True), run(asks=False)
    assert [one for one in told if not isinstance(one, Queued | PromptComputed)] == silent
    assert places(told)
