from __future__ import annotations

import sys
from collections.abc import Sequence as Tokens

import pytest

from appliance.engine.scheduler import ChunkTurn, DecodeTurn, Scheduler
from appliance.engine.types import Request, SamplingParams, Sequence
from tests.engine.simulation import Arrival, simulate


def a_sequence(request_id: str, prompt: Tokens[int], key: str = "") -> Sequence:
    return Sequence(Request(request_id, tuple(prompt), SamplingParams(), cache_key=key), list(prompt))


def ids(sequences: list[Sequence]) -> list[str]:
    return [s.request.id for s in sequences]


def test_those_who_wait_take_turns_over_keys() -> None:
    scheduler = Scheduler()
    for request_id, key in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("c1", "c"), ("c2", "c")):
        scheduler.add(a_sequence(request_id, [1, 2], key))
    assert ids(scheduler.waiting()) == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_a_key_that_was_served_goes_behind_the_others() -> None:
    scheduler = Scheduler()
    for request_id, key in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        scheduler.add(a_sequence(request_id, [1, 2], key))
    scheduler.start_prompt(scheduler.waiting()[0])
    assert ids(scheduler.waiting()) == ["b1", "a2"]


def test_short_prompts_are_quick_and_long_ones_advance() -> None:
    scheduler = Scheduler(idle_chunk_size=16)
    for sequence in (a_sequence("long", range(1000)), a_sequence("short", range(48))):
        scheduler.add(sequence)
        scheduler.start_prompt(sequence)
    turns = []
    for _ in range(5):
        turn = scheduler.next_turn()
        assert isinstance(turn, ChunkTurn)
        turn.sequence.num_computed += turn.num_tokens
        turns.append(turn.sequence.request.id)
    assert turns == ["short", "long", "short", "long", "short"]


@pytest.mark.parametrize(("token_s", "num_tokens"), [(1 / 2000, 256), (1 / 1000, 128), (1 / 400, 32), (1 / 100, 32)])
def test_a_chunk_beside_running_streams_is_as_long_as_the_board_is_fast(token_s: float, num_tokens: int) -> None:
    scheduler = Scheduler(patience_s=0.15)
    stream, prompt = a_sequence("stream", [1, 2]), a_sequence("prompt", range(3000))
    for sequence in (stream, prompt):
        scheduler.add(sequence)
        scheduler.start_prompt(sequence)
    scheduler.start_decoding(stream)
    stream.num_computed = 1
    turn = scheduler.next_turn()
    assert turn == ChunkTurn(prompt, 128)
    for size in (128, 256, 2):
        scheduler.chunk_took(size, size * token_s if size > 2 else 9.0)  # two tokens tell nothing
    assert isinstance(scheduler.next_turn(), DecodeTurn)
    assert scheduler.next_turn() == ChunkTurn(prompt, num_tokens)


def test_forced_tokens_go_before_the_next_decode_step() -> None:
    scheduler = Scheduler()
    sequence = a_sequence("a", [1, 2])
    scheduler.add(sequence)
    scheduler.start_prompt(sequence)
    scheduler.start_decoding(sequence)
    sequence.num_computed = 2
    sequence.tokens += [3, 4, 5]
    assert scheduler.next_turn() == ChunkTurn(sequence, 3)
    sequence.num_computed = 4
    assert isinstance(scheduler.next_turn(), DecodeTurn)


def test_an_empty_scheduler_has_nothing_to_do() -> None:
    scheduler = Scheduler()
    assert scheduler.next_turn() is None
    assert not scheduler.has_work
    assert scheduler.remove("unknown") is None


def test_a_flood_of_one_key_delays_another_by_one_request_at_most() -> None:
    flood = [Arrival(0.0, "flood", num_prompt=100, num_output=50) for _ in range(40)]
    polite = Arrival(1.0, "polite", num_prompt=100, num_output=50)
    alone = simulate([polite], num_slots=1).first_token_s["polite"][0]
    among = simulate([*flood, polite], num_slots=1)
    one_request = simulate(flood[:1], num_slots=1).end_s
    assert among.first_token_s["polite"][0] <= alone + one_request + 1e-9


def test_a_recorded_hour_keeps_its_tail_short() -> None:
    trace = [Arrival(0.37 * i, f"user{i % 5}", 40 + 61 * (i % 7), 20 + 13 * (i % 4)) for i in range(300)]
    result = simulate(trace, num_slots=4)
    waits = sorted(w for user in result.first_token_s.values() for w in user)
    assert len(waits) == 300
    p50, p95, p99 = (waits[int(len(waits) * q)] for q in (0.5, 0.95, 0.99))
    sys.stdout.write(f"first token after p50 {p50:.2f} s, p95 {p95:.2f} s, p99 {p99:.2f} s of virtual time\n")
    per_user = [max(user) for user in result.first_token_s.values()]
    assert max(per_user) < 2 * min(per_user) + 1.0
