"""The store of responses: bounded by bytes as counted, by key, least recently used first."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Callable

import pytest

from appliance.server.state.responses import ResponseStore, StoredResponse


def entry(name: str, previous: str | None = None, *, num_bytes: int = 300, num_items: int = 2) -> StoredResponse:
    """A response with items of this many bytes each, made anew so that nothing is shared."""
    items = [json.dumps({"id": f"{name}_{i}", "text": "x" * num_bytes}).encode() for i in range(num_items)]
    ids = tuple(f"{name}_{i}" for i in range(num_items))
    response = json.dumps({"id": name, "output": [], "padding": "y" * 1000}).encode()
    return StoredResponse(name, previous, response, tuple(items[:-1]), tuple(items[-1:]), ids)


def filled(store: ResponseStore, num_turns: int, key_id: str = "", prefix: str = "resp") -> str:
    """Store one chain; return its last id."""
    previous: str | None = None
    for turn in range(num_turns):
        made = entry(f"{prefix}_{turn:032d}", previous)
        assert store.put(key_id, made)
        previous = made.id
    assert previous is not None
    return previous


def num_calls(function: Callable[[], object]) -> int:
    """Count the calls that a function makes, which no other load changes."""
    events: list[str] = []
    sys.setprofile(lambda _frame, event, _argument: events.append(event) if event.endswith("call") else None)
    try:
        function()
    finally:
        sys.setprofile(None)
    return len(events)


def test_a_chain_is_walked_once_and_costs_as_much_a_turn_however_long_it_is() -> None:
    store = ResponseStore()
    last = filled(store, 1000)
    chain = store.chain("", last)
    assert chain is not None
    assert [stored.previous_id for stored in chain] == [None, *(stored.id for stored in chain[:-1])]
    assert len(chain) == 1000
    tenth = chain[99].id
    assert num_calls(lambda: store.chain("", last)) <= 10.5 * num_calls(lambda: store.chain("", tenth))


@pytest.mark.parametrize(("num_bytes", "num_items"), [(0, 1), (300, 2), (4000, 2), (100, 40)])
def test_the_memory_of_entries_is_as_counted_within_a_tenth(num_bytes: int, num_items: int) -> None:
    store = ResponseStore()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for i in range(1000):
            store.put("key", entry(f"resp_{i:032d}", None, num_bytes=num_bytes, num_items=num_items))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert store.size_bytes == pytest.approx(after - before, rel=0.1)


def test_the_least_recently_used_goes_first_and_its_chain_is_refused_whole() -> None:
    store = ResponseStore(12 * entry("resp_0").size_bytes)
    first = filled(store, 4, prefix="a")
    second = filled(store, 4, prefix="b")
    assert store.chain("", first) is not None
    filled(store, 6, prefix="c")
    assert store.chain("", first) is not None
    assert store.chain("", second) is None
    assert store.size_bytes <= store.max_bytes


def test_one_key_gets_at_most_half_and_sees_nothing_of_another() -> None:
    store = ResponseStore(20 * entry("resp_0").size_bytes)
    mine = filled(store, 5, "mine", prefix="m")
    filled(store, 40, "greedy", prefix="g")
    assert store.chain("mine", mine) is not None
    assert store.size_bytes <= store.max_bytes * 3 // 4
    assert store.chain("greedy", mine) is None
    assert store.get("greedy", mine) is None
    assert store.item("greedy", f"{mine}_0") is None
    assert not store.delete("greedy", mine)
    store.keep_only(["greedy"])
    assert store.chain("mine", mine) is None


def test_an_entry_larger_than_the_bound_is_not_stored_and_evicts_nothing() -> None:
    store = ResponseStore(3 * entry("resp_0").size_bytes)
    kept = filled(store, 2)
    assert not store.put("", entry("resp_large", num_bytes=1 << 20))
    assert store.chain("", kept) is not None
    assert not ResponseStore(0).put("", entry("resp_0"))


def test_what_is_deleted_is_gone_at_once_with_its_items() -> None:
    store = ResponseStore()
    last = filled(store, 3)
    first = f"resp_{0:032d}"
    assert store.item("", f"{first}_1") is not None
    assert store.delete("", first)
    assert not store.delete("", first)
    assert store.item("", f"{first}_1") is None
    assert store.chain("", last) is None
    assert store.get("", last) is not None
    for turn in (1, 2):
        store.delete("", f"resp_{turn:032d}")
    assert store.size_bytes == 0


def test_an_item_that_two_responses_hold_outlives_the_first() -> None:
    store = ResponseStore()
    store.put("", StoredResponse("resp_a", None, b"{}", (b"1",), (), ("msg_1",)))
    store.put("", StoredResponse("resp_b", None, b"{}", (b"1",), (), ("msg_1",)))
    store.delete("", "resp_a")
    assert store.item("", "msg_1") == b"1"


def test_responses_are_forgotten_after_thirty_days() -> None:
    now_s = 0.0
    store = ResponseStore(clock=lambda: now_s)
    last = filled(store, 2)
    now_s = 29 * 86400.0
    assert store.chain("", last) is not None
    now_s = 31 * 86400.0
    assert store.get("", last) is None
    assert store.size_bytes == 0
