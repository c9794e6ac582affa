from __future__ import annotations

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.engine.engine import Engine
from appliance.engine.loop import AsyncEngine
from appliance.engine.types import FinishReason, Request, SamplingParams, StepPlan
from appliance.errors import ContextLengthError, ModelError, OverloadedError, UnavailableError
from tests.engine.fake_runner import CountingRunner


class FailingRunner(CountingRunner):
    """A model that fails in its third step."""

    def run(self, plan: StepPlan) -> NDArray[np.float32]:
        if len(self.plans) == 3:
            raise ModelError("the model failed in a step")
        return super().run(plan)


def an_engine(
    runner: CountingRunner, failures: list[BaseException] | None = None, *, max_waiting: int = 4
) -> AsyncEngine:
    kept: list[BaseException] = [] if failures is None else failures
    return AsyncEngine(
        Engine(runner), name="test", capacity=runner.capacity, max_waiting=max_waiting, on_failure=kept.append
    )


def a_request(request_id: str, *, max_tokens: int = 5) -> Request:
    return Request(request_id, (1, 2, 3), SamplingParams(temperature=0.0, max_tokens=max_tokens))


def test_a_stream_brings_the_tokens_and_the_end() -> None:
    async def main() -> None:
        engine = an_engine(CountingRunner())
        engine.start()
        with engine.submit(a_request("a")) as stream:
            outputs = [output async for output in stream]
        assert [o.token for o in outputs[1:]] == [4, 5, 6, 7, 8]
        assert outputs[0].num_cached_tokens == 0
        assert outputs[-1].finish_reason is FinishReason.LENGTH
        await engine.stop()

    asyncio.run(main())


def test_leaving_a_stream_cancels_it_and_frees_who_waits_on_it() -> None:
    async def main() -> None:
        engine = an_engine(CountingRunner(num_rows=1))
        engine.start()
        with engine.submit(a_request("hog", max_tokens=200)) as hog:
            await anext(hog)
            with engine.submit(a_request("queued")) as queued:
                waiting = asyncio.create_task(queued.begun())
                await asyncio.sleep(0)
            await waiting
        with engine.submit(a_request("next")) as stream:
            assert [o.token async for o in stream][-1] == 8
        await engine.stop()

    asyncio.run(main())


def test_what_cannot_run_is_refused_before_it_is_queued() -> None:
    async def main() -> None:
        engine = an_engine(CountingRunner(num_rows=1), max_waiting=1)
        with pytest.raises(UnavailableError):
            engine.submit(a_request("early"))
        engine.start()
        with pytest.raises(ContextLengthError, match="256"):
            engine.submit(a_request("long", max_tokens=10_000))
        with (
            engine.submit(a_request("a", max_tokens=200)),
            engine.submit(a_request("b")),
            pytest.raises(OverloadedError),
        ):
            engine.submit(a_request("c"))
        await engine.stop()
        with pytest.raises(UnavailableError):
            engine.submit(a_request("late"))

    asyncio.run(main())


def test_a_failed_step_ends_every_stream_with_an_error() -> None:
    failures: list[BaseException] = []

    async def read(engine: AsyncEngine, request_id: str) -> None:
        with engine.submit(a_request(request_id, max_tokens=50)) as stream:
            async for _ in stream:
                pass

    async def main() -> None:
        engine = an_engine(FailingRunner(), failures)
        engine.start()
        results = await asyncio.gather(*(read(engine, name) for name in "ab"), return_exceptions=True)
        assert [type(r) for r in results] == [ModelError, ModelError]
        with pytest.raises(UnavailableError):
            engine.submit(a_request("after"))
        await engine.stop()

    asyncio.run(main())
    assert [type(f) for f in failures] == [ModelError]


def test_stopping_waits_for_running_streams_as_long_as_it_may() -> None:
    async def main() -> None:
        engine = an_engine(CountingRunner())
        engine.start()

        async def read() -> int:
            with engine.submit(a_request("a", max_tokens=100)) as stream:
                return len([o async for o in stream])

        reading = asyncio.create_task(read())
        await asyncio.sleep(0)
        await engine.stop(drain_s=10)
        assert await reading == 101

    asyncio.run(main())
