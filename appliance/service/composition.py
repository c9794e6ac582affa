"""The composition root: the parts of a server, built from the settings in one place for every mode.

Nothing is started here. It blocks: files are read and sockets are bound, so call it before the event loop, or in a
thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from aiohttp import web

from appliance.access.opening import Access, open_access
from appliance.access.usage import KeyUsage
from appliance.bundle import BundleStore, TrustedKeys
from appliance.config import Config, ResponsesConfig, ServerConfig
from appliance.diagnosis.examination import examine
from appliance.engine.runtime.kept_slots import KeptFolder, remove_all
from appliance.errors import ConfigError, ConflictError
from appliance.home import Home
from appliance.host.addresses import is_loopback
from appliance.host.files import write_atomically
from appliance.host.thermal import Thermal, read_thermal
from appliance.identity.certificate import device_certificate
from appliance.identity.device_id import host_name, load_device_id
from appliance.identity.served_certificate import ServedCertificate
from appliance.install import Installer
from appliance.install.administration import Administration
from appliance.models import EngineSettings, ModelPool, PoolSettings
from appliance.server.app import make_app
from appliance.server.context import Examination, OwnDevice, ServerContext
from appliance.server.http.connection import DEFAULT_LIMITS, ConnectionLimits
from appliance.server.http.cors import Cors
from appliance.server.http.guard import Guard
from appliance.server.http.listener import Listener
from appliance.server.state.background import Background
from appliance.server.state.file import remove_files
from appliance.server.state.journal import DiskJournal
from appliance.server.state.lifetime import kept_responses
from appliance.server.state.responses import ResponseStore
from appliance.server.state.sealing import Sealer
from appliance.server.v1.responses.background import interrupted
from appliance.service.announcing import Announcing
from appliance.service.endpoints import Endpoints, open_endpoints, own_host_names
from appliance.service.heat import Heat
from appliance.service.neighbours import search_neighbours
from appliance.service.recorder import Recorder
from appliance.system.incoming_update import IncomingUpdate
from appliance.text.cl100k import Cl100k

_LOGGER = logging.getLogger(__name__)

_RESTART_PAUSE_S = 61.0  # five starts in 300 seconds are what lantern.service allows


class Mode(enum.Enum):
    """The purpose of a server."""

    FULL = "the models are served"
    SAFE = "no model is loaded; only liveness and administration answer, over HTTPS too if that is possible"


class Stopping:
    """The order to stop, with the failure that gave it, if there was one; owned by the event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.failure: BaseException | None = None
        self.is_restart = False

    def is_set(self) -> bool:
        """Tell if the server is to stop."""
        return self._event.is_set()

    def set(self) -> None:
        """Begin an orderly stop."""
        self._event.set()

    def restart(self) -> None:
        """Begin an orderly stop, after which the process starts again."""
        self.is_restart = True
        self._event.set()

    def fail(self, err: BaseException) -> None:
        """Stop because of an error; the first one counts."""
        self.failure = self.failure or err
        self._event.set()

    async def wait(self) -> None:
        """Wait for the order."""
        await self._event.wait()


@dataclass(frozen=True, slots=True)
class Parts:
    """A whole server, built and not started. The sockets are bound already; `endpoints.close` gives them back."""

    config: Config
    home: Home
    stopping: Stopping
    endpoints: Endpoints
    certificate: ServedCertificate | None
    access: Access
    key_usage: KeyUsage
    pool: ModelPool
    installer: Installer
    administration: Administration
    heat: Heat
    recorder: Recorder
    announcing: Announcing
    text_threads: ThreadPoolExecutor
    kept_responses: AbstractAsyncContextManager[None]
    app: web.Application
    listener: Listener


def compose(
    config: Config,
    home: Home,
    mode: Mode = Mode.FULL,
    *,
    config_path: Path | None = None,
    faults: tuple[str, ...] = (),
    reopen_claim: bool = False,
    limits: ConnectionLimits = DEFAULT_LIMITS,
    read_heat: Callable[[], Thermal] = read_thermal,
) -> Parts:
    """Build the parts of a server.

    `config_path` is the file of the settings if it is not the home's own: the diagnosis reads it again. `faults` make a
    server say that it is degraded; `reopen_claim` lets a claimed device be claimed once more. The caps of `limits` are
    those of the settings.

    Raises:
        ConfigError: an address or a certificate that cannot be used, or an open server that was not asked for.
    """
    device_id, stopping = load_device_id(home), Stopping()
    with contextlib.ExitStack() as undo:
        endpoints, certificate = (_open_safely if mode is Mode.SAFE else _open)(config, home, host_name(device_id))
        undo.callback(endpoints.close)
        is_exposed = mode is Mode.FULL and (endpoints.is_exposed or not is_loopback(config.server.host))
        access = open_access(config.server, home, is_exposed=is_exposed, reopen_claim=reopen_claim)
        conversations = _conversations(config, home, mode, access)
        pool, installer = _models(config, home, mode, stopping, conversations)
        announcing = Announcing(config.discovery, device_id, pool, access.ring, endpoints, certificate)
        administration = _administration(home, pool, installer, access, on_change=announcing.refresh)
        heat, text_threads = Heat(pool, read=read_heat), ThreadPoolExecutor(2, thread_name_prefix="text")
        context = ServerContext(
            pool=pool,
            keys=access.ring,
            guard=Guard(host_names=own_host_names(config, host_name(device_id)), alias=lambda: announcing.alias),
            text_threads=text_threads,
            started_s=int(time.time()),
            is_draining=stopping.is_set,
            thermal=heat.now,
            faults=faults,
            leave_safe_mode=partial(_leave_safe_mode, home, stopping) if mode is Mode.SAFE else None,
            administration=administration,
            device=_own_device(partial(examine, home, config_path, served=config), mode, device_id, stopping),
            identity=announcing.identity(),
            sealer=Sealer.load(home.sealing_key) if mode is Mode.FULL else Sealer(),
        )
        context.metrics.watch(pool, heat.now)
        journal = DiskJournal(home.responses) if mode is Mode.FULL and config.responses.store == "disk" else None
        store, background = _response_store(config.responses, home, mode, journal), Background()
        kept = kept_responses(store, background, journal, interrupted)
        recorder = Recorder(context.history, pool, context.metrics, heat.now, home.bundles)
        app = make_app(_with_settings(context, config, store, background))
        listener = _listener(config.server, app, endpoints, certificate, limits)
        undo.pop_all()
    usage = KeyUsage(home.keys_used, access.ring)
    return Parts(
        *(config, home, stopping, endpoints, certificate, access, usage, pool, installer, administration),
        *(heat, recorder, announcing, text_threads, kept, app, listener),
    )


def _response_store(settings: ResponsesConfig, home: Home, mode: Mode, journal: DiskJournal | None) -> ResponseStore:
    """Return the store; what an earlier setting kept on the disk is removed."""
    if mode is Mode.FULL and journal is None and (num_removed := remove_files(home.responses)):
        _LOGGER.warning("%d files of stored responses were removed: responses.store is not disk", num_removed)
    return ResponseStore(settings.max_mib << 20 if settings.store != "off" else 0, journal=journal)


def _with_settings(
    context: ServerContext, config: Config, store: ResponseStore, background: Background
) -> ServerContext:
    """Apply the settings, in safe mode too."""
    settings, embeddings = config.server, config.embeddings
    return replace(
        context,
        cors=Cors(settings.cors_origins),
        max_body_bytes=settings.max_body_mib << 20,
        max_wait_s=settings.max_wait_s,
        max_choices=settings.max_choices,
        plain_administration=settings.plain_administration,
        token_ids=embeddings.token_ids,
        cl100k=Cl100k(Path(embeddings.token_table) if embeddings.token_table else None),
        responses=store,
        background=background,
    )


def _own_device(examination: Examination, mode: Mode, device_id: str, stopping: Stopping) -> OwnDevice:
    return OwnDevice(
        examine=examination,
        search=partial(search_neighbours, device_id),
        restart=partial(_restart, stopping, time.monotonic(), is_safe_mode=mode is Mode.SAFE),
    )


def _administration(
    home: Home, pool: ModelPool, installer: Installer, access: Access, *, on_change: Callable[[], None]
) -> Administration:
    return Administration(pool, installer, access, IncomingUpdate(home.updates), on_change=on_change)


_Opened = tuple[Endpoints, ServedCertificate | None]


def _open(config: Config, home: Home, name: str) -> _Opened:
    """Open the sockets of the settings, with their certificate or the device's own."""
    endpoints = open_endpoints(config)
    if not endpoints.https:
        return endpoints, None
    try:
        certificate, key = Path(config.tls.certificate), Path(config.tls.key)
        if not config.tls.certificate:
            certificate = key = device_certificate(home.tls, host_name=name)
        return endpoints, ServedCertificate(certificate, key)
    except BaseException:
        endpoints.close()
        raise


def _open_safely(config: Config, home: Home, name: str) -> _Opened:
    """Open plain HTTP in any case, for /health, and HTTPS with the device's own certificate if that is possible."""
    server = config.server.model_copy(update={"http": True})
    plain = config.model_copy(update={"server": server, "tls": config.tls.model_copy(update={"enabled": False})})
    secure = plain.model_copy(update={"tls": config.tls.model_copy(update={"enabled": True})})
    try:
        path = device_certificate(home.tls, host_name=name)
        certificate = ServedCertificate(path, path)
        return open_endpoints(secure), certificate
    except (ConfigError, OSError) as err:
        _LOGGER.warning("there is no HTTPS: %s", err)
    return open_endpoints(plain), None


def _models(
    config: Config, home: Home, mode: Mode, stopping: Stopping, conversations: KeptFolder | None
) -> tuple[ModelPool, Installer]:
    models = config.models
    engine = replace(EngineSettings.of(config.engine), conversations=conversations)
    store = BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys))
    settings = PoolSettings(
        preload=tuple(models.preload) if mode is Mode.FULL else (),
        memory_bytes=(models.memory_mib << 20) or None,
        keep_alive_s=models.keep_alive_s,
        keep_alive_of_s=models.keep_alive_of_s,
        load_wait_s=config.server.max_wait_s,
        drain_s=config.server.drain_s,
    )
    pool = ModelPool(
        store,
        cache=home.prepacked,
        settings=engine,
        aliases=models.aliases,
        on_failure=stopping.fail,
        pool_settings=settings,
    )
    return pool, Installer(store, engine, held_bytes=lambda: pool.reserved_bytes)


def _conversations(config: Config, home: Home, mode: Mode, access: Access) -> KeptFolder | None:
    """Return the folder of idle conversations; what an earlier setting kept there is removed."""
    limit_bytes = config.models.conversations_mib << 20
    if limit_bytes:
        return KeptFolder(home.conversations, limit_bytes, lambda: access.ring.key_ids)
    if mode is Mode.FULL:
        remove_all(home.conversations)
    return None


def _listener(
    settings: ServerConfig,
    app: web.Application,
    endpoints: Endpoints,
    certificate: ServedCertificate | None,
    limits: ConnectionLimits,
) -> Listener:
    capped = replace(
        limits, max_connections=settings.max_connections, max_per_address=settings.max_connections_per_address
    )
    tls = certificate.context if certificate is not None else None
    return Listener(app, endpoints.http, tls_sockets=endpoints.https, tls=tls, limits=capped)


async def _leave_safe_mode(home: Home, stopping: Stopping) -> None:
    """End safe mode once running requests are answered; lantern-recover.service looks for the file."""
    await asyncio.to_thread(write_atomically, home.leave_safe_mode, b"")
    stopping.set()


def _restart(stopping: Stopping, started_s: float, *, is_safe_mode: bool) -> None:
    """Begin a restart, unless so many of them would be taken for failures."""
    if is_safe_mode:
        raise ConflictError("This device is in safe mode; leave it, which starts the device again.")
    is_managed = "NOTIFY_SOCKET" in os.environ
    if is_managed and time.monotonic() - started_s < _RESTART_PAUSE_S:
        raise ConflictError(f"This device started less than {_RESTART_PAUSE_S:.0f} seconds ago; try again in a minute.")
    stopping.restart()
