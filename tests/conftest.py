"""Rules for every test, its kind, and the real models and server that the higher rungs share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from xdist.remote import Producer

from appliance.bundle import BundleStore, TrustedKeys
from appliance.config import Config
from appliance.engine.kernels import KernelLibrary, load_kernels
from appliance.engine.runtime.prepacked import prepacked
from appliance.engine.types import EngineStats
from appliance.home import Home, lantern_home
from appliance.host.files import locked
from appliance.models import ChatModel
from appliance.service.composition import compose
from appliance.service.service import Service
from tests.engine.kernels.building import built, make, need
from tests.kinds import arrange, mark
from tests.scheduling import ByModule

_READY_TIMEOUT_S = 120.0
# A shell ignores Ctrl-C for what it starts in the background, and so would every program that is interrupted here.
signal.signal(signal.SIGINT, signal.default_int_handler)

_STARTERS = ("smollm2-135m-instruct", "all-minilm-l6-v2")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test by its fixtures, before `-m` chooses; in a parallel run, begin with the dearest."""
    for item in items:
        mark(item)
    if hasattr(config, "workerinput"):
        items[:] = arrange(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByModule:
    """Let one worker take all tests of a module."""
    return ByModule(config, log)


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
def starter_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home of this process with the starter bundles, which are built unless LANTERN_HOME has them already.

    Bundles and prepacked models are those of LANTERN_HOME; of the processes of a parallel run, one prepares them and
    the others wait. Everything else that a server writes stays in the temporary folder.
    """
    shared = lantern_home()
    with locked(shared.root / ".tests.lock"):
        if not all((shared.bundles / name / "active").is_symlink() for name in _STARTERS):
            subprocess.run([sys.executable, "-m", "quantize", "starter"], check=True, env=os.environ)
        store = BundleStore(shared.bundles, TrustedKeys.load(shared.trusted_keys))
        for name in _STARTERS:
            prepacked(store.open(name), shared.prepacked)
    home = Home(tmp_path_factory.mktemp("starters"))
    home.signing_key.parent.mkdir(mode=0o700)
    shutil.copy(shared.signing_key, home.signing_key)
    shutil.copytree(shared.trusted_keys, home.trusted_keys)
    home.bundles.symlink_to(shared.bundles)
    home.cache.symlink_to(shared.cache)
    return home


@pytest.fixture(scope="session")
def wants_clients() -> None:
    """Skip the test unless LANTERN_CLIENT_TESTS allows installing other projects' clients from their registries."""
    if not os.environ.get("LANTERN_CLIENT_TESTS"):
        pytest.skip("set LANTERN_CLIENT_TESTS=1 to install and run other projects' clients")


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A real service on a real port, in a loop of its own."""

    base_url: str
    service: Service
    call: Callable[[Callable[[], object]], object]

    @property
    def root_url(self) -> str:
        return self.base_url.removesuffix("/v1")

    def stats(self) -> EngineStats:
        """Return the counts of the first chat model that is loaded."""

        def read() -> EngineStats:
            return next(m for m in self.service.pool.loaded() if isinstance(m, ChatModel)).engine.stats()

        result = self.call(read)
        assert isinstance(result, EngineStats)
        return result


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
            asyncio.run(Service(compose(config, home), on_ready=on_ready).run())
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


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    """Build and load the library of kernels as `make kernels` does."""
    need("make", "g++")
    build = tmp_path_factory.mktemp("library")
    make("kernels", build, "KERNEL_FLAGS=-Werror")
    return load_kernels(built(build / "liblantern_kernels.so"))
