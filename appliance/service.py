"""The composition root: builds everything from a Config, starts it in order, stops it in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web

from appliance import __version__
from appliance.access import Access, open_access, told_locally
from appliance.background import beside
from appliance.bundle import BundleStore, TrustedKeys
from appliance.certificate import ServedCertificate
from appliance.config import Config
from appliance.discovery.announcer import Announcer
from appliance.discovery.identity import host_name, load_device_id
from appliance.discovery.record import Auth, ServiceRecord, State
from appliance.endpoints import Endpoints, open_endpoints, own_host_names
from appliance.errors import BundleError
from appliance.home import Home
from appliance.host.addresses import is_loopback
from appliance.host.allocator import trimming
from appliance.host.sdnotify import notify, watchdog_interval_s
from appliance.host.thermal import Thermal, read_thermal
from appliance.install import Installer
from appliance.models import EngineSettings, ModelPool, PoolSettings
from appliance.models.entry import thread_of
from appliance.server.admin.administration import Administration
from appliance.server.app import make_app
from appliance.server.context import ServerContext
from appliance.server.cors import Cors
from appliance.server.guard import Guard
from appliance.server.keys import KeyRing
from appliance.server.limits import ConnectionLimits
from appliance.server.listener import Listener
from appliance.tls import device_certificate
from appliance.updates import IncomingUpdate
from appliance.watchdog import Watchdog, WatchedThread

_LOGGER = logging.getLogger(__name__)

_THERMAL_INTERVAL_S = 10.0
_APIS = {"decoder": "chat", "encoder": "emb"}


class Service:
    """The whole appliance in one event loop. `run` returns when it was told to stop, or raises why it cannot go on."""

    def __init__(
        self,
        config: Config,
        home: Home,
        *,
        on_ready: Callable[[Service], None] = lambda _: None,
        faults: tuple[str, ...] = (),
        reopen_claim: bool = False,
    ) -> None:
        """`on_ready` is called once, when the first request can be answered; `faults` make it say degraded.

        `reopen_claim` lets a device that was claimed be claimed once more.
        """
        self._config = config
        self._home = home
        self._on_ready = on_ready
        self._faults = faults
        self._reopen_claim = reopen_claim
        self._announced: Announcer | None = None
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None
        self._endpoints = Endpoints((), ())
        self._thermal = Thermal()
        self._certificate: ServedCertificate | None = None
        self._device_id = load_device_id(home)
        store = BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys))
        self._pool = ModelPool(
            store,
            cache=home.prepacked,
            settings=EngineSettings.of(config.engine),
            aliases=config.models.aliases,
            on_failure=self._fail,
            pool_settings=_pool_settings(config),
        )
        self._installer = Installer(
            store, EngineSettings.of(config.engine), held_bytes=lambda: self._pool.reserved_bytes
        )

    @property
    def port(self) -> int:
        """The port in use."""
        port: int = self._endpoints.all[0].getsockname()[1]
        return port

    @property
    def https_port(self) -> int | None:
        """The port of HTTPS, if it is served."""
        return self._endpoints.https[0].getsockname()[1] if self._endpoints.https else None

    @property
    def base_url(self) -> str:
        """What an SDK on this machine takes as its base URL."""
        host = str(self._endpoints.all[0].getsockname()[0])
        if host in {"", "0.0.0.0", "::"}:  # noqa: S104
            host = "127.0.0.1"
        return f"{self._proto}://{f'[{host}]' if ':' in host else host}:{self.port}/v1"

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
        async with contextlib.AsyncExitStack() as stack:
            self._endpoints = open_endpoints(self._config)
            stack.callback(self._endpoints.close)
            access = await asyncio.to_thread(self._access)
            threads = ThreadPoolExecutor(2, thread_name_prefix="text")
            stack.callback(threads.shutdown, wait=False, cancel_futures=True)
            if self._endpoints.https:
                self._certificate = await asyncio.to_thread(self._read_certificate)
            administration = self._administration(access)
            listener = self._listener(make_app(self._context(threads, access.ring, administration)))
            stack.push_async_callback(listener.close)
            if not self._endpoints.are_passed:
                await listener.start()
            stack.push_async_callback(self._close_pool)
            await asyncio.to_thread(self._installer.sweep)
            await self._start_pool(access.ring)
            stack.push_async_callback(administration.close)
            if self._endpoints.are_passed:
                await listener.start()
                stack.callback(listener.stop_accepting)
            await stack.enter_async_context(beside(self._watch_heat()))
            await stack.enter_async_context(trimming())
            if self._config.discovery.announce:
                self._announced = await stack.enter_async_context(self._announcer(access.ring))
            await stack.enter_async_context(self._watchdog())
            root_url = self.base_url.removesuffix("/v1")
            local = told_locally(self._home.running, root_url, self._pin, access.local_key)
            tell = await stack.enter_async_context(local)
            await stack.enter_async_context(self._following_certificate(listener, tell))
            notify("READY=1")
            self._on_ready(self)
            await self._stopping.wait()
            notify("STOPPING=1")
        if self._failure is not None:
            raise self._failure

    @property
    def _proto(self) -> str:
        return "http" if self._endpoints.http else "https"

    def _context(self, threads: ThreadPoolExecutor, keys: KeyRing, administration: Administration) -> ServerContext:
        server = self._config.server
        context = ServerContext(
            pool=self._pool,
            keys=keys,
            guard=Guard(host_names=own_host_names(self._config, host_name(self._device_id))),
            cors=Cors(server.cors_origins),
            text_threads=threads,
            started_s=int(time.time()),
            is_draining=self._stopping.is_set,
            max_body_bytes=server.max_body_mib << 20,
            max_wait_s=server.max_wait_s,
            max_choices=server.max_choices,
            thermal=lambda: self._thermal,
            faults=self._faults,
            administration=administration,
            plain_administration=server.plain_administration,
            incoming_update=IncomingUpdate(self._home.updates),
        )
        context.metrics.watch(self._pool, lambda: self._thermal)
        return context

    def _access(self) -> Access:
        server = self._config.server
        is_exposed = self._endpoints.is_exposed or not is_loopback(server.host)
        return open_access(server, self._home, is_exposed=is_exposed, reopen_claim=self._reopen_claim)

    def _administration(self, access: Access) -> Administration:
        return Administration(
            self._pool,
            self._installer,
            access.store,
            access.claiming,
            trusted_keys=self._home.trusted_keys,
            on_change=lambda: self._announce_change(access.ring),
        )

    def _listener(self, app: web.Application) -> Listener:
        server = self._config.server
        limits = ConnectionLimits(
            max_connections=server.max_connections, max_per_address=server.max_connections_per_address
        )
        tls = self._certificate.context if self._certificate is not None else None
        return Listener(app, self._endpoints.http, tls_sockets=self._endpoints.https, tls=tls, limits=limits)

    @property
    def _pin(self) -> str | None:
        return self._certificate.pin if self._certificate is not None else None

    def _read_certificate(self) -> ServedCertificate:
        """The certificate of the settings, else the device's own."""
        settings = self._config.tls
        certificate, key = Path(settings.certificate), Path(settings.key)
        if not settings.certificate:
            certificate = key = device_certificate(self._home.tls, host_name=host_name(self._device_id))
        return ServedCertificate(certificate, key)

    @contextlib.asynccontextmanager
    async def _following_certificate(
        self, listener: Listener, tell: Callable[[str], Awaitable[None]]
    ) -> AsyncIterator[None]:
        """Show, announce and tell another certificate when it takes the place of the one that is served."""
        if (certificate := self._certificate) is None:
            yield
            return

        async def change() -> None:
            listener.show(certificate.context)
            if self._announced is not None:
                self._announced.update(fingerprint=certificate.pin)
            await tell(certificate.pin)

        async with certificate.followed(change):
            yield

    def _announcer(self, keys: KeyRing) -> Announcer:
        config = self._config
        num_models, apis = self._models_and_apis()
        record = ServiceRecord(
            device_id=self._device_id,
            version=__version__,
            auth=Auth.NONE if keys.is_open else Auth.BEARER,
            apis=apis,
            num_models=num_models,
            state=_state(keys),
            proto=self._proto,
            fingerprint=self._pin,
            tls_port=self.https_port,
        )
        hosts = sorted({s.getsockname()[0] for s in self._endpoints.all})
        return Announcer(
            record, name=config.discovery.name or f"lantern-{self._device_id[:8]}", port=self.port, hosts=hosts
        )

    def _models_and_apis(self) -> tuple[int, tuple[str, ...]]:
        kinds = [m.bundle.manifest.model.kind for m in self._pool.installed()]
        return len(kinds), tuple(api for kind, api in _APIS.items() if kind in kinds)

    def _announce_change(self, keys: KeyRing) -> None:
        if self._announced is not None:
            num_models, apis = self._models_and_apis()
            self._announced.update(state=_state(keys), num_models=num_models, apis=apis)

    async def _start_pool(self, keys: KeyRing) -> None:
        """A device without any model starts where somebody can give it one."""
        await self._pool.start()
        if not self._pool.installed() and keys.is_open:
            bundles = self._home.bundles
            reason = next(iter(self._pool.damaged.values()), f"no model is installed in {bundles}")
            raise BundleError(f"{reason}; build the starter models with: lantern-quantize starter")

    async def _close_pool(self) -> None:
        await self._pool.close(drain_s=0.0 if self._failure else self._config.server.drain_s)

    def _fail(self, err: BaseException) -> None:
        if self._failure is None:
            self._failure = err
        self._stopping.set()

    def _model_threads(self) -> list[WatchedThread]:
        return [thread_of(model) for model in self._pool.loaded()]

    @contextlib.asynccontextmanager
    async def _watchdog(self) -> AsyncIterator[None]:
        interval_s = watchdog_interval_s()
        if interval_s is None:
            yield
            return
        async with Watchdog(self._model_threads, interval_s=interval_s).running():
            yield

    async def _watch_heat(self) -> None:
        while True:
            self._thermal = await asyncio.to_thread(read_thermal)
            self._pool.rest_slots(int(self._thermal.is_throttled))
            await asyncio.sleep(_THERMAL_INTERVAL_S)


def _state(keys: KeyRing) -> State:
    """What is announced, until the end: a new device takes requests once it is claimed."""
    return State.STARTING if keys.is_unclaimed else State.READY


def _pool_settings(config: Config) -> PoolSettings:
    models = config.models
    return PoolSettings(
        preload=tuple(models.preload),
        memory_bytes=(models.memory_mib << 20) or None,
        keep_alive_s=models.keep_alive_s,
        keep_alive_of_s=models.keep_alive_of_s,
        load_wait_s=config.server.max_wait_s,
    )
