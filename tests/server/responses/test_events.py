"""The events of responses in the background: followed, bounded, forgotten."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from appliance.errors import OverloadedError
from appliance.server.state.background import Background, Running
from appliance.server.state.events import EventLog, FallenBehindError


async def read(log: EventLog, start: int = 0) -> list[bytes]:
    return [event async for events in log.follow(start) for event in events]


def test_any_number_of_clients_follow_from_anywhere_until_the_end() -> None:
    async def run() -> None:
        log = EventLog()
        log.append(b"0")
        readers = [asyncio.create_task(read(log, start)) for start in (0, 0, 1, 3)]
        for text in (b"1", b"2", b"3"):
            await asyncio.sleep(0)
            log.append(text)
        log.close()
        whole = [b"0", b"1", b"2", b"3"]
        assert await asyncio.gather(*readers) == [whole, whole, whole[1:], whole[3:]]
        assert await read(log, 4) == []

    asyncio.run(run())


def test_the_oldest_events_are_dropped_and_a_reader_who_needs_them_is_told() -> None:
    async def run() -> None:
        log = EventLog(max_bytes=10_000)
        slow = log.follow(0)
        log.append(b"x" * 1000)
        assert await anext(slow) == [b"x" * 1000]
        for _ in range(100):
            log.append(b"x" * 1000)
        assert log.size_bytes <= 10_000
        assert (log.first, log.end) == (92, 101)
        with pytest.raises(FallenBehindError):
            await anext(slow)
        log.close()
        assert len(await read(log, log.first)) == 9

    asyncio.run(run())


@pytest.mark.parametrize("num_bytes", [120, 250, 3000])
def test_the_memory_of_events_is_as_counted_within_a_tenth(num_bytes: int) -> None:
    log = EventLog(max_bytes=100 << 20)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for i in range(5000):
            log.append(b"%d" % i + b"x" * num_bytes)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert log.size_bytes == pytest.approx(after - before, rel=0.1)


def ended(background: Background, name: str, key_id: str = "", *, num_bytes: int = 1000) -> None:
    running = Running(key_id)
    running.log.append(b"x" * num_bytes)
    background.add(name, running)
    background.end(name)


def test_events_of_what_has_ended_are_bounded_and_the_oldest_go_first() -> None:
    now_s = 0.0
    background = Background(max_kept_bytes=10_000, clock=lambda: now_s)
    running = Running("key")
    running.log.append(b"x" * 100_000)
    background.add("runs", running)
    for i in range(30):
        now_s = float(i)
        ended(background, f"mine_{i}", "key")
        ended(background, f"other_{i}", "other")
    assert background.find("key", "runs") is running
    assert [i for i in range(30) if background.find("key", f"mine_{i}")] == [26, 27, 28, 29]
    assert background.size_bytes <= 10_000 + running.log.size_bytes
    assert background.find("key", "other_29") is None
    now_s = 700.0
    assert background.find("other", "other_29") is None
    assert background.find("key", "runs") is running


def test_all_keys_together_have_a_bound() -> None:
    async def run() -> None:
        background = Background()
        over = asyncio.Event()

        async def work() -> None:
            await over.wait()

        tasks = [background.start(f"key_{i % 4}", work) for i in range(16)]
        with pytest.raises(OverloadedError, match="16 of all"):
            background.start("another", work)
        over.set()
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)
        await background.start("another", work)

    asyncio.run(run())


def test_a_stop_ends_all_that_runs() -> None:
    async def run() -> None:
        background = Background()
        ends: list[str] = []

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ends.append("end")

        for _ in range(3):
            background.start("", work)
        await asyncio.sleep(0)
        await background.stop()
        assert ends == ["end"] * 3

    asyncio.run(run())
