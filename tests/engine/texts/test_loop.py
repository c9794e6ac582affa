"""Requests for many texts take turns with those for one, and each gets its own rows."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.engine.texts.loop import AsyncTextModel, choose
from appliance.errors import ModelError, OverloadedError, UnavailableError

Text = tuple[int, ...]


def in_a_loop(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


class Rows:
    """The first token of each text and its length; waits at a gate, and remembers every round."""

    def __init__(self) -> None:
        self.rounds: list[list[Text]] = []
        self.gate = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.error: Exception | None = None

    def __call__(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        self.entered.release()
        assert self.gate.acquire(timeout=10)
        if self.error is not None:
            raise self.error
        self.rounds.append(list(texts))
        return np.array([[text[0], len(text)] for text in texts], np.float32)

    def open(self, num_rounds: int = 1000) -> None:
        self.gate.release(num_rounds)


@contextlib.asynccontextmanager
async def a_model(
    rows: Rows, failures: list[BaseException] | None = None, *, max_waiting: int = 64, max_items_per_round: int = 64
) -> AsyncIterator[AsyncTextModel[Text]]:
    loop = AsyncTextModel[Text](
        rows,
        name="test",
        max_waiting=max_waiting,
        max_items_per_round=max_items_per_round,
        on_failure=([] if failures is None else failures).append,
    )
    async with loop as model:
        yield model


async def begun(rows: Rows) -> None:
    assert await asyncio.to_thread(rows.entered.acquire, timeout=10)


@in_a_loop
async def test_every_request_gets_its_own_rows_in_order() -> None:
    rows = Rows()
    rows.open()
    async with a_model(rows, max_items_per_round=3) as model:
        texts = [[(i,) * (1 + i * 7 % 5) for i in range(start, start + 8)] for start in (0, 100)]
        found = await asyncio.gather(*(model.submit(wanted) for wanted in texts))
        for wanted, got in zip(texts, found, strict=True):
            assert got.tolist() == [[text[0], len(text)] for text in wanted]


@in_a_loop
async def test_one_text_does_not_wait_for_the_end_of_a_thousand() -> None:
    rows = Rows()
    async with a_model(rows, max_items_per_round=10) as model:
        large = asyncio.create_task(model.submit([(1,)] * 1000))
        await begun(rows)
        small = asyncio.create_task(model.submit([(2, 2)]))
        await asyncio.sleep(0)
        rows.open(2)
        assert (await small).tolist() == [[2, 2]]
        assert not large.done()
        rows.open()
        assert (await large).shape == (1000, 2)


@pytest.mark.parametrize(("token_s", "longest"), [(0.0, 8192), (0.0001, 8192), (0.001, 2000), (0.01, 512)])
def test_a_round_has_as_many_tokens_as_the_board_computes_in_two_seconds(token_s: float, longest: int) -> None:
    rounds: list[int] = []
    now_s = 0.0

    def compute(texts: Sequence[Text]) -> NDArray[np.float32]:
        nonlocal now_s
        rounds.append(sum(map(len, texts)))
        now_s += rounds[-1] * token_s
        return np.zeros((len(texts), 1), np.float32)

    async def run() -> None:
        async with AsyncTextModel[Text](compute, name="slow", on_failure=print, clock=lambda: now_s) as model:
            await model.submit([(1,) * 250] * 200)

    asyncio.run(run())
    assert sum(rounds) == 250 * 200
    assert longest - 250 < max(rounds[1:]) <= longest


@in_a_loop
async def test_a_request_that_was_cancelled_is_not_computed_further() -> None:
    rows = Rows()
    async with a_model(rows, max_items_per_round=1) as model:
        task = asyncio.create_task(model.submit([(1,)] * 50))
        await begun(rows)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        rows.open()
        await model.submit([(3,)])
    assert len(rows.rounds) <= 3


@in_a_loop
async def test_stopping_finishes_what_is_queued_and_takes_nothing_new() -> None:
    rows = Rows()
    async with a_model(rows, max_items_per_round=2) as model:
        task = asyncio.create_task(model.submit([(i,) for i in range(9)]))
        await begun(rows)
        rows.open()
    assert len(await task) == 9
    with pytest.raises(UnavailableError):
        await model.submit([(1,)])


@in_a_loop
async def test_a_full_queue_refuses() -> None:
    rows = Rows()
    async with a_model(rows, max_waiting=1) as model:
        first = asyncio.create_task(model.submit([(1,)]))
        await begun(rows)
        with pytest.raises(OverloadedError):
            await model.submit([(2,)])
        rows.open()
        await first


@in_a_loop
async def test_a_failure_ends_every_request_and_is_told_once() -> None:
    rows = Rows()
    rows.error = RuntimeError("broken")
    failures: list[BaseException] = []
    async with a_model(rows, failures) as model:
        tasks = [asyncio.create_task(model.submit([(i,)])) for i in range(3)]
        await begun(rows)
        rows.open()
        for task in tasks:
            with pytest.raises(ModelError):
                await task
        assert failures == [rows.error]


def test_a_round_takes_the_longest_of_each_request_in_turn_within_its_tokens() -> None:
    items = [[(0,) * n for n in (5, 1, 3)], [(0,) * n for n in (2, 9)]]
    waiting = [[1, 2, 0], [0, 1]]
    assert choose(waiting, items, 4, 1000) == [(0, 0), (1, 1), (0, 2), (1, 0)]
    assert waiting == [[1], []]
    assert choose([[1, 2, 0], [0, 1]], items, 9, 6) == [(0, 0)]
    assert choose([[0], []], [[(0,) * 99], []], 9, 6) == [(0, 0)]


@in_a_loop
async def test_who_waits_for_too_long_is_told_to_come_back_and_is_not_computed() -> None:
    rows = Rows()
    async with a_model(rows) as model:
        first = asyncio.create_task(model.submit([(1,)]))
        await begun(rows)
        with pytest.raises(UnavailableError, match=r"waited 0\.05 s") as caught:
            await model.submit([(2, 2)], max_wait_s=0.05)
        assert caught.value.retry_after_s > 0
        rows.open()
        assert (await first).tolist() == [[1, 1]]
    assert rows.rounds == [[(1,)]]


@in_a_loop
async def test_what_was_begun_in_time_may_take_its_time() -> None:
    rows = Rows()
    async with a_model(rows) as model:
        slow = asyncio.create_task(model.submit([(1,)], max_wait_s=0.02))
        await begun(rows)
        assert not (await asyncio.wait([slow], timeout=0.2))[0]
        rows.open()
        assert (await slow).tolist() == [[1, 1]]


@in_a_loop
async def test_a_ping_is_answered_when_idle_and_between_rounds_and_never_by_one_that_hangs() -> None:
    rows = Rows()
    async with a_model(rows) as model:
        await asyncio.wait_for(model.ping(), 10)
        work = asyncio.create_task(model.submit([(1,)]))
        await begun(rows)
        ping = asyncio.create_task(model.ping())
        assert not (await asyncio.wait([ping], timeout=0.2))[0]
        rows.open()
        await asyncio.wait_for(ping, 10)
        await work
