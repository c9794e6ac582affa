"""The watchdog is fed by progress, not by a clock; and what systemd hands over is taken."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.engine.engine import Engine
from appliance.engine.loop import AsyncEngine
from appliance.engine.texts.loop import AsyncTextModel
from appliance.engine.types import ModelRunner, Request, SamplingParams, StepPlan
from appliance.host.sdnotify import notify, watchdog_interval_s
from appliance.host.sockets import passed_sockets
from appliance.service.watchdog import Watchdog
from tests.engine.fake_runner import CountingRunner
from tests.engine.streams import read_all, tokens_of


def an_engine(runner: ModelRunner) -> AsyncEngine:
    return AsyncEngine(Engine(runner), name="fake", capacity=64, max_waiting=4, on_failure=print)


def test_an_idle_engine_and_a_working_one_feed_the_watchdog() -> None:
    async def run() -> int:
        engine, sent = an_engine(CountingRunner()), asyncio.Semaphore(0)
        async with engine, Watchdog(lambda: [engine], interval_s=0.01, send=lambda _: sent.release()):
            for _ in range(3):
                await sent.acquire()
            with engine.submit(Request("a", (1, 2, 3), SamplingParams(max_tokens=50, temperature=0))) as stream:
                num = len(tokens_of(await read_all(stream)))
            for _ in range(3):
                await sent.acquire()
        return num

    assert asyncio.run(run()) == 50


class HeldRunner(CountingRunner):
    """Stands still in a step until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def run(self, plan: StepPlan) -> NDArray[np.float32]:
        self.entered.set()
        self.go_on.wait()
        return super().run(plan)


def test_an_engine_that_stands_still_starves_the_watchdog() -> None:
    async def run() -> bool:
        runner, fed = HeldRunner(), asyncio.Event()
        async with an_engine(runner) as engine:
            with engine.submit(Request("a", (1, 2), SamplingParams(max_tokens=1))) as stream:
                assert await asyncio.to_thread(runner.entered.wait, 10)
                async with Watchdog(lambda: [engine], interval_s=0.0, send=lambda _: fed.set()):
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(engine.ping(), 0.3)
                    is_fed_while_stuck = fed.is_set()
                    runner.go_on.set()
                    await read_all(stream)
                    await asyncio.wait_for(fed.wait(), 10)
        return is_fed_while_stuck

    assert not asyncio.run(run())


class BusyRunner(CountingRunner):
    """Computes within a step until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.is_done = False

    def run(self, plan: StepPlan) -> NDArray[np.float32]:
        self.entered.set()
        while not self.is_done:
            np.sort(np.arange(10_000)[::-1])
        return super().run(plan)


@pytest.mark.parametrize("longest_step_s", [900.0, 0.0])
def test_a_step_that_computes_for_long_is_alive_and_one_that_never_ends_is_not(longest_step_s: float) -> None:
    """A small board reads a long text for longer than the service manager waits."""

    async def run() -> tuple[int, int]:
        runner, times_fed = BusyRunner(), list[str]()
        async with an_engine(runner) as engine:
            with engine.submit(Request("a", (1, 2), SamplingParams(max_tokens=1))) as stream:
                assert await asyncio.to_thread(runner.entered.wait, 10)
                watchdog = Watchdog(
                    lambda: [engine],
                    interval_s=0.0,
                    send=times_fed.append,
                    look_again_s=0.01,
                    longest_step_s=longest_step_s,
                )
                async with watchdog:
                    used_s = engine.processor_s()
                    while engine.processor_s() < used_s + 0.3:
                        await asyncio.sleep(0.01)
                    while_busy = len(times_fed)
                    runner.is_done = True
                    await read_all(stream)
                    while len(times_fed) <= while_busy:
                        await asyncio.sleep(0.01)
        return while_busy, len(times_fed)

    while_busy, after = asyncio.run(run())
    assert (while_busy > 0) == (longest_step_s > 0)
    assert after > while_busy


def test_a_thread_that_has_ended_uses_no_processor_time() -> None:
    async def run() -> tuple[float, float]:
        engine = an_engine(CountingRunner())
        before = engine.processor_s()
        async with engine:
            await engine.ping()
        return before, engine.processor_s()

    assert asyncio.run(run()) == (0.0, 0.0)


def test_a_model_that_reads_texts_and_stands_still_starves_the_watchdog_until_it_is_unloaded() -> None:
    async def run() -> tuple[int, int]:
        entered, go_on, sent = threading.Event(), threading.Event(), list[str]()

        def compute(texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
            entered.set()
            go_on.wait()
            return np.zeros((len(texts), 1), np.float32)

        async with AsyncTextModel[Sequence[int]](compute, name="held", on_failure=print) as model:
            loaded: list[AsyncTextModel[Sequence[int]]] = [model]
            work = asyncio.create_task(model.submit([(1,)]))
            assert await asyncio.to_thread(entered.wait, 10)
            async with Watchdog(lambda: loaded, interval_s=0.0, send=sent.append, look_again_s=0.01):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(model.ping(), 0.3)
                while_stuck = len(sent)
                loaded.clear()
                while not sent:
                    await asyncio.sleep(0.001)
            go_on.set()
            await work
        return while_stuck, len(sent)

    while_stuck, after = asyncio.run(run())
    assert while_stuck == 0
    assert after > 0


def test_passed_sockets_are_taken_once_and_by_their_names() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        first = os.dup2(one.fileno(), 200), os.dup2(two.fileno(), 201)
        environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:https"}
        passed = passed_sockets(environment, first_fd=first[0])
        assert [p.name for p in passed] == ["http", "https"]
        assert [p.socket.getsockname() for p in passed] == [one.getsockname(), two.getsockname()]
        assert not any(p.socket.get_inheritable() for p in passed)
        assert passed_sockets(environment, first_fd=first[0]) == []
        for p in passed:
            p.socket.close()


@pytest.mark.parametrize("environment", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_FDS": "x"}])
def test_sockets_for_somebody_else_are_left_alone(environment: dict[str, str]) -> None:
    assert passed_sockets(environment) == []


def test_a_message_reaches_the_service_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        assert notify("READY=1", address=str(tmp_path / "notify"))
        assert manager.recv(100) == b"READY=1"
    assert not notify("READY=1", address=str(tmp_path / "nobody"))
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert watchdog_interval_s() == 15.0
