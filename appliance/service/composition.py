"""The composition root: the parts of a server, built from the settings in one place for every mode.

Nothing is started here. It blocks: files are read and sockets are bound, so call it before the event loop, or in a
thread.
"""

from __future__ import annotations

import contextlib
import enum
import logging
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
from appliance.home import Home
from appliance.host.addresses import is_loopback
from appliance.host.thermal import Thermal, read_thermal
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
from appliance.service.endpoints import Endpoints, own_host_names
from appliance.service.entrance import open_entrance, open_safely
from appliance.service.heat import Heat
from appliance.service.neighbours import search_neighbours
from appliance.service.recorder import Recorder
from appliance.service.stopping import Stopping, leave_safe_mode, restart
from appliance.system.incoming_update import IncomingUpdate
from appliance.text.cl100k import Cl100k

_LOGGER = logging.getLogger(__name__)


class Mode(enum.Enum):
    """The purpose of a server."""

    FULL = "the models are served"
    SAFE = "no model is loaded; only liveness and administration answer, over HTTPS too if that is possible"


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
    with contextlib.ExitStack() as undo:
        base = _base(config, home, mode, undo, reopen_claim=reopen_claim, read_heat=read_heat)
        context = _context(base, config_path=config_path, faults=faults)
        context.metrics.watch(base.pool, base.heat.now)
        journal = DiskJournal(home.responses) if mode is Mode.FULL and config.responses.store == "disk" else None
        store, background = _response_store(config.responses, home, mode, journal), Background()
        app = make_app(_with_settings(context, config, store, background))
        listener = _listener(config.server, app, base.endpoints, base.certificate, limits)
        recorder = Recorder(context.history, base.pool, context.metrics, base.heat.now, home.bundles)
        kept = kept_responses(store, background, journal, interrupted)
        undo.pop_all()
    return Parts(
        config=config,
        home=home,
        stopping=base.stopping,
        endpoints=base.endpoints,
        certificate=base.certificate,
        access=base.access,
        key_usage=KeyUsage(home.keys_used, base.access.ring),
        pool=base.pool,
        installer=base.installer,
        administration=base.administration,
        heat=base.heat,
        recorder=recorder,
        announcing=base.announcing,
        text_threads=context.text_threads,
        kept_responses=kept,
        app=app,
        listener=listener,
    )


@dataclass(frozen=True, slots=True)
class _Base:
    """The parts that know nothing of routes."""

    config: Config
    home: Home
    mode: Mode
    device_id: str
    stopping: Stopping
    endpoints: Endpoints
    certificate: ServedCertificate | None
    access: Access
    pool: ModelPool
    installer: Installer
    announcing: Announcing
    administration: Administration
    heat: Heat


def _base(
    config: Config,
    home: Home,
    mode: Mode,
    undo: contextlib.ExitStack,
    *,
    reopen_claim: bool,
    read_heat: Callable[[], Thermal],
) -> _Base:
    device_id, stopping = load_device_id(home), Stopping()
    open_sockets = open_safely if mode is Mode.SAFE else open_entrance
    endpoints, certificate = open_sockets(config, home, host_name(device_id))
    undo.callback(endpoints.close)
    is_exposed = mode is Mode.FULL and (endpoints.is_exposed or not is_loopback(config.server.host))
    access = open_access(config.server, home, is_exposed=is_exposed, reopen_claim=reopen_claim)
    pool, installer = _models(config, home, mode, stopping, _conversations(config, home, mode, access))
    announcing = Announcing(config.discovery, device_id, pool, access.ring, endpoints, certificate)
    update, on_change = IncomingUpdate(home.updates), announcing.refresh
    return _Base(
        config=config,
        home=home,
        mode=mode,
        device_id=device_id,
        stopping=stopping,
        endpoints=endpoints,
        certificate=certificate,
        access=access,
        pool=pool,
        installer=installer,
        announcing=announcing,
        administration=Administration(pool, installer, access, update, on_change=on_change),
        heat=Heat(pool, read=read_heat),
    )


def _context(base: _Base, *, config_path: Path | None, faults: tuple[str, ...]) -> ServerContext:
    home, mode, announcing = base.home, base.mode, base.announcing
    examination = partial(examine, home, config_path, served=base.config)
    names = own_host_names(base.config, host_name(base.device_id))
    return ServerContext(
        pool=base.pool,
        keys=base.access.ring,
        guard=Guard(host_names=names, alias=lambda: announcing.alias),
        text_threads=ThreadPoolExecutor(2, thread_name_prefix="text"),
        started_s=int(time.time()),
        is_draining=base.stopping.is_set,
        thermal=base.heat.now,
        faults=faults,
        leave_safe_mode=partial(leave_safe_mode, home, base.stopping) if mode is Mode.SAFE else None,
        administration=base.administration,
        device=_own_device(examination, mode, base.device_id, base.stopping),
        identity=announcing.identity(),
        sealer=Sealer.load(home.sealing_key) if mode is Mode.FULL else Sealer(),
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
        restart=partial(restart, stopping, time.monotonic(), is_safe_mode=mode is Mode.SAFE),
    )


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
