from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable

import pytest

from appliance.engine.types import Request, SamplingParams
from appliance.errors import (
    BundleError,
    InsufficientMemoryError,
    InvalidRequestError,
    ModelNotFoundError,
    UnavailableError,
)
from appliance.models import ModelPool
from appliance.models.memory import MARGIN_BYTES, needed_bytes
from tests.engine.streams import read_all, tokens_of
from tests.models.device import SETTINGS, Device, names


async def answer(pool: ModelPool, name: str) -> list[int]:
    async with pool.chat(name) as model:
        params = SamplingParams(temperature=0.0, max_tokens=3)
        with model.engine.submit(Request(uuid.uuid4().hex, (1, 2), params)) as stream:
            return tokens_of(await read_all(stream))


def room_for_two(device: Device) -> int:
    needed = needed_bytes(device.store.open("a"), SETTINGS)
    return 2 * needed + needed // 2


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_what_is_installed_is_loaded_at_start(device: Device) -> None:
    device.install("a")
    device.install("b", kind="encoder")

    async def main() -> None:
        pool = device.pool(aliases={"gpt": "a", "gone": "c"})
        async with pool:
            assert names(pool) == ["a", "b"]
            assert [m.id for m in pool.listed()] == ["a", "b", "gpt"]
            assert await answer(pool, "gpt") == [3, 4, 5]
            async with pool.embedding("b") as model:
                assert (await model.embedder.submit([[1, 2, 3]])).tolist() == [[3.0]]

    asyncio.run(main())


def test_a_model_that_is_not_preloaded_is_loaded_once_for_all_who_ask(device: Device) -> None:
    device.install("a")

    async def main() -> None:
        pool = device.pool(preload=())
        async with pool:
            assert (names(pool), [m.id for m in pool.listed()]) == ([], ["a"])
            device.may_load.clear()
            asked = [asyncio.create_task(answer(pool, "a")) for _ in range(3)]
            await asyncio.sleep(0)
            device.may_load.set()
            assert [await task for task in asked] == [[3, 4, 5]] * 3
            assert device.loads == ["a"]

    asyncio.run(main())


def test_a_load_does_not_hold_up_what_is_running(device: Device) -> None:
    device.install("a")
    device.install("b")

    async def main() -> None:
        pool = device.pool(preload=("a",))
        async with pool:
            device.may_load.clear()
            slow = asyncio.create_task(answer(pool, "b"))
            await asyncio.sleep(0)
            assert await answer(pool, "a") == [3, 4, 5]
            assert not slow.done()
            device.may_load.set()
            assert await slow == [3, 4, 5]

    asyncio.run(main())


def test_who_waits_too_long_for_a_load_is_told_so_and_the_load_goes_on(device: Device) -> None:
    device.install("a")

    async def main() -> None:
        pool = device.pool(preload=(), load_wait_s=0.01)
        async with pool:
            device.may_load.clear()
            with pytest.raises(UnavailableError, match="still being loaded"):
                await answer(pool, "a")
            device.may_load.set()
            await until(lambda: names(pool) == ["a"])

    asyncio.run(main())


def test_the_least_recently_used_model_makes_room(device: Device) -> None:
    for name in "abc":
        device.install(name)
    room = room_for_two(device)

    async def main() -> None:
        pool = device.pool(preload=("a", "b"), memory_bytes=room)
        async with pool:
            await answer(pool, "b")
            await answer(pool, "a")
            await answer(pool, "c")
            assert names(pool) == ["a", "c"]
            assert await answer(pool, "b") == [3, 4, 5]
            assert names(pool) == ["b", "c"]

    asyncio.run(main())


def test_preloading_takes_what_fits_and_unloads_nobody(device: Device) -> None:
    for name in "abc":
        device.install(name)
    room = room_for_two(device)

    async def main() -> None:
        pool = device.pool(free_bytes=lambda: room + MARGIN_BYTES)
        async with pool:
            assert len(names(pool)) == 2
            assert pool.is_ready
            assert not pool.damaged

    asyncio.run(main())


def test_a_model_in_use_is_never_unloaded_for_another(device: Device) -> None:
    device.install("a")
    device.install("b")
    needed = needed_bytes(device.store.open("a"), SETTINGS)

    async def main() -> None:
        pool = device.pool(preload=(), memory_bytes=needed + 1)
        async with pool:
            async with pool.chat("a"):
                with pytest.raises(UnavailableError, match=r"b needs \d+ MiB of memory and 0 MiB are free"):
                    await answer(pool, "b")
                assert names(pool) == ["a"]
            assert await answer(pool, "b") == [3, 4, 5]

    asyncio.run(main())


def test_a_model_larger_than_the_device_is_refused_with_the_numbers(device: Device) -> None:
    device.install("a")

    async def main() -> None:
        pool = device.pool(free_bytes=lambda: MARGIN_BYTES + (7 << 20))
        async with pool:
            with pytest.raises(InsufficientMemoryError, match=r"a needs \d+ MiB of memory and 7 MiB are free"):
                await answer(pool, "a")
            assert device.loads == []

    asyncio.run(main())


def test_an_idle_model_is_unloaded_after_its_time_and_comes_back(device: Device) -> None:
    device.install("a")
    device.install("b")

    async def main() -> None:
        pool = device.pool(keep_alive_of_s={"a": 0.001})
        async with pool:
            assert await answer(pool, "a") == [3, 4, 5]
            assert await answer(pool, "b") == [3, 4, 5]
            await until(lambda: names(pool) == ["b"])
            assert await answer(pool, "a") == [3, 4, 5]

    asyncio.run(main())


def test_a_model_that_is_asked_for_while_it_leaves_is_loaded_after_it_has_left(device: Device) -> None:
    device.install("b", kind="encoder")

    async def main() -> None:
        pool = device.pool()
        async with pool:
            reserved = pool.reserved_bytes
            (entry,) = pool._catalogue.entries.values()
            device.may_leave.clear()
            leaving = asyncio.create_task(pool._residence._unload(entry))
            await until(lambda: not pool.loaded())

            async def ask() -> None:
                async with pool.embedding("b") as model:
                    assert (await model.embedder.submit([[1, 2]])).tolist() == [[2.0]]

            asked = asyncio.create_task(ask())
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert device.loads == ["b"]
            device.may_leave.set()
            await leaving
            await asked
            assert device.loads == ["b", "b"]
            assert pool.reserved_bytes == reserved

    asyncio.run(main())


def test_a_replaced_model_serves_until_its_last_answer_and_the_new_one_from_then_on(device: Device) -> None:
    old = device.install("a", content=b"old")

    async def main() -> None:
        pool = device.pool()
        async with pool:
            async with pool.chat("a") as running:
                new = await asyncio.to_thread(device.install, "a", content=b"new")
                await pool.refresh()
                async with pool.chat("a") as model:
                    assert model.bundle.digest == new.digest
                assert running.bundle.digest == old.digest
                params = SamplingParams(temperature=0.0, max_tokens=2)
                with running.engine.submit(Request("late", (5,), params)) as stream:
                    assert tokens_of(await read_all(stream)) == [6, 7]
            await until(lambda: len(pool.loaded()) == 1)
            assert device.loads == ["a", "a"]

    asyncio.run(main())


def test_a_removed_model_is_gone_at_once(device: Device) -> None:
    device.install("a")
    device.install("b")

    async def main() -> None:
        pool = device.pool(aliases={"gpt": "a"})
        async with pool:
            await asyncio.to_thread(device.store.remove, "a")
            await pool.refresh()
            for name in ("a", "gpt"):
                with pytest.raises(ModelNotFoundError, match=rf"`{name}` does not exist .* Installed: b\."):
                    await answer(pool, name)
            await until(lambda: names(pool) == ["b"])

    asyncio.run(main())


def test_a_damaged_model_gives_way_to_the_version_before_it(device: Device) -> None:
    old = device.install("a", content=b"old")
    new = device.install("a", content=b"new")
    (new.folder / "model.onnx").write_bytes(b"bad")

    async def main() -> None:
        pool = device.pool()
        async with pool:
            assert [m.bundle.digest for m in pool.loaded()] == [old.digest]
            assert "the version before it serves" in pool.damaged["a"]

    asyncio.run(main())


def test_a_damaged_model_without_an_older_version_is_left_out(device: Device) -> None:
    bundle = device.install("a")
    device.install("b")
    (bundle.folder / "model.onnx").write_bytes(b"damaged")

    async def main() -> None:
        pool = device.pool(preload=())
        async with pool:
            with pytest.raises(BundleError):
                await answer(pool, "a")
            assert list(pool.damaged) == ["a"]
            with pytest.raises(ModelNotFoundError):
                await answer(pool, "a")
            assert await answer(pool, "b") == [3, 4, 5]

    asyncio.run(main())


def test_a_model_of_another_kind_is_refused_before_it_is_loaded(device: Device) -> None:
    device.install("a")
    device.install("b", kind="encoder")

    async def main() -> None:
        pool = device.pool(preload=())
        async with pool:
            with pytest.raises(InvalidRequestError, match="makes embeddings; this needs one that generates text"):
                await answer(pool, "b")
            with pytest.raises(InvalidRequestError, match="generates text; this needs one that makes embeddings"):
                async with pool.embedding("a"):
                    pass
            assert device.loads == []

    asyncio.run(main())


def test_before_it_is_ready_a_request_is_told_to_come_back(device: Device) -> None:
    async def main() -> None:
        with pytest.raises(UnavailableError, match="being loaded"):
            await answer(device.pool(), "a")

    asyncio.run(main())


def test_closing_waits_for_a_load_under_way(device: Device) -> None:
    device.install("a")

    async def main() -> None:
        async with device.pool(preload=()) as pool:
            device.may_load.clear()
            asked = asyncio.create_task(answer(pool, "a"))
            await until(lambda: pool.reserved_bytes > 0)
            asked.cancel()
            asyncio.get_running_loop().call_soon(device.may_load.set)
        assert (pool.loaded(), pool.reserved_bytes) == ([], 0)

    asyncio.run(main())


def test_on_a_hot_board_one_slot_rests(device: Device) -> None:
    device.install("a")
    device.steps = threading.Semaphore(0)

    async def main(steps: threading.Semaphore) -> None:
        pool = device.pool()
        async with pool:
            pool.limit_slots(1)
            async with pool.chat("a") as model:
                params = SamplingParams(temperature=0.0, max_tokens=200)
                first, second = (model.engine.submit(Request(name, (1,), params)) for name in "12")
                with first, second:
                    steps.release(2)  # between the two, the engine learns of the second request
                    await first.ready()
                    await until(lambda: model.engine.stats().num_waiting == 1)
                    assert model.engine.stats().num_running == 1
                steps.release(2)  # the step under way, in which both requests are cancelled, and one to spare

    asyncio.run(main(device.steps))
