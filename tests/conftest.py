"""What every test is held to, and the real models and server that the higher rungs share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from appliance.config import Config
from appliance.home import Home, lantern_home
from appliance.service import Service

_READY_TIMEOUT_S = 120.0
# A shell ignores Ctrl-C for what it starts in the background, and so would every program that is interrupted here.
signal.signal(signal.SIGINT, signal.default_int_handler)

_STARTERS = ("smollm2-135m-instruct", "all-minilm-l6-v2")


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [t for t in threading.enumerate() if t not in before and not t.name.startswith(("asyncio_", "text_"))]
    for thread in left:
        thread.join(timeout=5.0)
    assert not [t.name for t in left if t.is_alive()]


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> Iterator[BlockBuster]:
    with blockbuster_ctx(scanned_modules=["appliance"]) as guard:
        yield guard


@pytest.fixture(scope="session")
def starter_home() -> Home:
    """The starter bundles, built from the published checkpoints unless this machine has them already."""
    home = lantern_home()
    if not all((home.bundles / name / "active").is_symlink() for name in _STARTERS):
        subprocess.run([sys.executable, "-m", "quantize", "starter"], check=True, env=os.environ)
    return home


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A real service on a real port, in a loop of its own."""

    base_url: str
    service: Service
    call: Callable[[Callable[[], object]], object]

    @property
    def root_url(self) -> str:
        return self.base_url.removesuffix("/v1")


@contextlib.contextmanager
def serving(config: Config, home: Home) -> Iterator[RunningServer]:
    """Run a service in a thread until the block is left; what it raises is raised here."""
    ready = threading.Event()
    started: list[RunningServer] = []
    failure: list[BaseException] = []

    def on_ready(service: Service) -> None:
        loop = asyncio.get_running_loop()

        def call(function: Callable[[], object]) -> object:
            async def in_loop() -> object:
                return function()

            return asyncio.run_coroutine_threadsafe(in_loop(), loop).result(10)

        started.append(RunningServer(service.base_url, service, call))
        ready.set()

    def run() -> None:
        try:
            asyncio.run(Service(config, home, on_ready=on_ready).run())
        except BaseException as err:
            failure.append(err)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="server")
    thread.start()
    try:
        assert ready.wait(_READY_TIMEOUT_S)
        if failure:
            raise failure[0]
        yield started[0]
    finally:
        if started and thread.is_alive():
            started[0].call(started[0].service.stop)
        thread.join(30)
    if failure:
        raise failure[0]


def a_config(**sections: dict[str, object]) -> Config:
    """A configuration for a test: loopback, any free port."""
    server = {"port": 0, "drain_s": 5.0, **sections.pop("server", {})}
    return Config.model_validate({"server": server, **sections})


@pytest.fixture(scope="session")
def server(starter_home: Home) -> Iterator[RunningServer]:
    """The starter models behind the API, shared by all tests that do not need settings of their own."""
    aliases = {"gpt-4o-mini": _STARTERS[0], "org/chat:latest": _STARTERS[0], "text-embedding-3-small": _STARTERS[1]}
    with serving(a_config(models={"aliases": aliases}), starter_home) as running:
        yield running


@pytest.fixture
def empty_home(tmp_path: Path) -> Home:
    """A home without anything in it."""
    return Home(tmp_path / "home")
