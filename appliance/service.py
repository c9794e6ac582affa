"""The composition root: builds everything from a Config, starts it in order, stops it in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from appliance import __version__
from appliance.bundle import BundleStore, TrustedKeys
from appliance.config import Config
from appliance.discovery.announcer import Announcer
from appliance.discovery.identity import host_name, load_device_id
from appliance.discovery.record import Auth, ServiceRecord, State
from appliance.errors import ConfigError
from appliance.home import Home
from appliance.host.cores import usable_cores
from appliance.host.sdnotify import notify, watchdog_interval_s
from appliance.models import ChatModel, EngineSettings, ModelPool
from appliance.server.app import make_app
from appliance.server.context import ServerContext
from appliance.server.guard import Guard
from appliance.server.keys import KeyRing
from appliance.server.listener import Listener, bind

_LOGGER = logging.getLogger(__name__)


class Service:
    """The whole appliance in one event loop. `run` returns when it was told to stop, or raises why it cannot go on."""

    def __init__(self, config: Config, home: Home, *, on_ready: Callable[[Service], None] = lambda _: None) -> None:
        """`on_ready` is called once, when the first request can be answered."""
        self._config = config
        self._home = home
        self._on_ready = on_ready
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None
        self._sockets: list[socket.socket] = []
        self._device_id = load_device_id(home)
        self._pool = ModelPool(
            BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys)),
            cache=home.prepacked,
            settings=_engine_settings(config),
            aliases=config.models.aliases,
            on_failure=self._fail,
        )

    @property
    def port(self) -> int:
        """The port in use."""
        port: int = self._sockets[0].getsockname()[1]
        return port

    @property
    def base_url(self) -> str:
        """What an SDK on this machine takes as its base URL."""
        host = self._config.server.host
        if host in {"", "0.0.0.0", "::"}:  # noqa: S104
            host = "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/v1"

    @property
    def pool(self) -> ModelPool:
        """The loaded models."""
        return self._pool

    def stop(self) -> None:
        """Begin an orderly stop."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until told to stop.

        Raises:
            ConfigError: the address cannot be bound, or an open server was not asked for.
            BundleError: no model can be served.
            ModelError: a model failed while running; start again.
        """
        self._refuse_open_server()
        self._sockets = _bind(self._config)
        async with contextlib.AsyncExitStack() as stack:
            threads = ThreadPoolExecutor(2, thread_name_prefix="text")
            stack.callback(threads.shutdown, wait=False, cancel_futures=True)
            listener = Listener(make_app(self._context(threads)), self._sockets)
            stack.push_async_callback(listener.close)
            await listener.start()
            stack.push_async_callback(self._close_pool)
            await self._pool.load_all()
            if self._config.discovery.announce:
                await stack.enter_async_context(self._announcer())
            stack.enter_context(self._watchdog())
            notify("READY=1")
            self._on_ready(self)
            await self._stopping.wait()
            notify("STOPPING=1")
        if self._failure is not None:
            raise self._failure

    def _context(self, threads: ThreadPoolExecutor) -> ServerContext:
        server = self._config.server
        own_names = {*server.host_names, f"{host_name(self._device_id)}", socket.gethostname()}
        own_names |= {f"{name.partition('.')[0]}.local" for name in own_names}
        return ServerContext(
            pool=self._pool,
            keys=KeyRing(server.keys),
            guard=Guard(host_names=own_names),
            text_threads=threads,
            started_s=int(time.time()),
            is_draining=self._stopping.is_set,
            max_body_bytes=server.max_body_mib << 20,
        )

    def _announcer(self) -> Announcer:
        config = self._config
        models = self._pool.loaded()
        apis = ("chat",) * any(isinstance(m, ChatModel) for m in models)
        apis += ("emb",) * any(not isinstance(m, ChatModel) for m in models)
        record = ServiceRecord(
            device_id=self._device_id,
            version=__version__,
            auth=Auth.BEARER if config.server.keys else Auth.NONE,
            apis=apis,
            num_models=len(models),
            state=State.READY,
        )
        hosts = sorted({s.getsockname()[0] for s in self._sockets})
        name = config.discovery.name or f"lantern-{self._device_id[:8]}"
        return Announcer(record, name=name, port=self.port, hosts=hosts)

    async def _close_pool(self) -> None:
        await self._pool.close(drain_s=0.0 if self._failure else self._config.server.drain_s)

    def _refuse_open_server(self) -> None:
        server = self._config.server
        if server.keys or server.allow_open or _is_loopback(server.host):
            return
        raise ConfigError(
            f"server.host is {server.host!r} and no key is set, so anybody on the network could use this server; "
            "set LANTERN_API_KEY, or say --no-auth if that is what you want."
        )

    def _fail(self, err: BaseException) -> None:
        if self._failure is None:
            self._failure = err
        self._stopping.set()

    @contextlib.contextmanager
    def _watchdog(self) -> Iterator[None]:
        """Tell the service manager that the loop ticks and every engine thread lives."""
        interval_s = watchdog_interval_s()
        if interval_s is None:
            yield
            return
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def tick() -> None:
            nonlocal timer
            if all(m.engine.is_alive for m in self._pool.loaded() if isinstance(m, ChatModel)):
                notify("WATCHDOG=1")
            timer = loop.call_later(interval_s, tick)

        tick()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()


def _engine_settings(config: Config) -> EngineSettings:
    engine = config.engine
    return EngineSettings(
        num_slots=engine.slots,
        context_length=engine.context_length,
        num_threads=engine.threads or usable_cores(),
        spinning=engine.spinning,
        max_waiting=engine.queue,
    )


def _bind(config: Config) -> list[socket.socket]:
    server = config.server
    try:
        return bind(server.host, server.port)
    except OSError as err:
        reason = err.strerror or str(err)
        raise ConfigError(
            f"{server.host}:{server.port} cannot be used: {reason.lower()}; choose another with --port or --host."
        ) from err


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

