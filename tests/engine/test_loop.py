from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.engine.engine import Engine
from appliance.engine.loop import AsyncEngine
from appliance.engine.types import Admitted, Finished, FinishReason, Request, SamplingParams, StepPlan
from appliance.errors import ContextLengthError, ModelError, OverloadedError, UnavailableError
from tests.engine.fake_runner import CountingRunner
from tests.engine.streams import read_all, tokens_of


class FailingRunner(CountingRunner):
    """A model that fails in its third step."""

    def run(self, plan: StepPlan) -> NDArray[np.float32]:
        if len(self.plans) == 3:
            raise ModelError("the model failed in a step")
        return super().run(plan)


class HeldRunner(CountingRunner):
    """A model whose second step takes until the test lets it go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def run(self, plan: StepPlan) -> NDArray[np.float32]:
        assert not self.plans or self.go.wait(timeout=60)
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
        async with an_engine(CountingRunner()) as engine:
            with engine.submit(a_request("a")) as stream:
                outputs = await read_all(stream)
        assert outputs[0] == Admitted("a", 0)
        assert tokens_of(outputs) == [4, 5, 6, 7, 8]
        assert outputs[-1] == Finished("a", FinishReason.LENGTH)
        times = [output.at_s for output in outputs]
        assert times == sorted(times)
        assert times[0] > 0

    asyncio.run(main())


def test_requests_that_are_submitted_together_share_a_stream_and_end_alone() -> None:
    async def main() -> None:
        runner = HeldRunner()
        async with an_engine(runner) as engine:
            requests = [a_request("a", max_tokens=200), a_request("b", max_tokens=3), a_request("c", max_tokens=200)]
            with engine.submit(*requests) as stream:
                await stream.ready()
                stream.cancel("a")
                runner.go.set()
                outputs = await read_all(stream)
        assert {o.request_id for o in outputs if isinstance(o, Finished)} == {"b", "c"}
        assert tokens_of(o for o in outputs if o.request_id == "b") == [4, 5, 6]

    asyncio.run(main())


def test_leaving_a_stream_cancels_it_and_frees_who_waits_on_it() -> None:
    async def main() -> None:
        async with an_engine(CountingRunner(num_slots=1)) as engine:
            with engine.submit(a_request("hog", max_tokens=200)) as hog:
                await hog.ready()
                with engine.submit(a_request("queued")) as queued:
                    waiting = asyncio.create_task(queued.ready())
                    await asyncio.sleep(0)
                await waiting
            with engine.submit(a_request("next")) as stream:
                assert tokens_of(await read_all(stream))[-1] == 8

    asyncio.run(main())


def test_what_cannot_run_is_refused_before_it_is_queued() -> None:
    async def main() -> None:
        engine = an_engine(CountingRunner(num_slots=1), max_waiting=1)
        with pytest.raises(UnavailableError):
            engine.submit(a_request("early"))
        async with engine:
            with pytest.raises(ContextLengthError, match="256"):
                engine.submit(a_request("long", max_tokens=10_000))
            with pytest.raises(OverloadedError):
                engine.submit(*(a_request(name) for name in "abc"))
            with (
                engine.submit(a_request("a", max_tokens=200)),
                engine.submit(a_request("b")),
                pytest.raises(OverloadedError),
            ):
                engine.submit(a_request("c"))
        with pytest.raises(UnavailableError):
            engine.submit(a_request("late"))

    asyncio.run(main())


def test_a_failed_step_ends_every_stream_with_an_error() -> None:
    failures: list[BaseException] = []

    async def read(engine: AsyncEngine, request_id: str) -> None:
        with engine.submit(a_request(request_id, max_tokens=50)) as stream:
            await read_all(stream)

    async def main() -> None:
        async with an_engine(FailingRunner(), failures) as engine:
            results = await asyncio.gather(*(read(engine, name) for name in "ab"), return_exceptions=True)
            assert [type(r) for r in results] == [ModelError, ModelError]
            with pytest.raises(UnavailableError):
                engine.submit(a_request("after"))

    asyncio.run(main())
    assert [type(f) for f in failures] == [ModelError]


def test_draining_waits_for_running_streams_as_long_as_it_may() -> None:
    async def main() -> None:
        async with an_engine(CountingRunner()) as engine:

            async def read() -> int:
                with engine.submit(a_request("a", max_tokens=100)) as stream:
                    return len(tokens_of(await read_all(stream)))

            reading = asyncio.create_task(read())
            await asyncio.sleep(0)
            await engine.drain(10)
            with pytest.raises(UnavailableError):
                engine.submit(a_request("late"))
        assert await reading == 100

    asyncio.run(main())


def test_the_end_of_the_engine_cuts_streams_off_with_an_error() -> None:
    async def main() -> None:
        async with an_engine(CountingRunner(capacity=100_000)) as engine:
            stream = engine.submit(a_request("a", max_tokens=90_000))
            await stream.ready()
        with stream, pytest.raises(UnavailableError):
            await read_all(stream)

    asyncio.run(main())
