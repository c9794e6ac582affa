"""Runs when the appliance failed too often: no model is loaded; /health and administration answer, the rest is 503.

So a model that brings the service down can be removed or rolled back from afar. Whoever administers ends it: then
the process exits with 0 and leaves a note for lantern-recover.service, which starts the appliance.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from appliance.access import open_access, told_locally
from appliance.bundle import BundleStore, TrustedKeys
from appliance.config import Config
from appliance.discovery.identity import host_name, load_device_id
from appliance.endpoints import Endpoints, open_endpoints, own_host_names
from appliance.errors import ConfigError
from appliance.files import write_whole
from appliance.home import Home
from appliance.host.sdnotify import notify
from appliance.install import Installer
from appliance.models import EngineSettings, ModelPool, PoolSettings
from appliance.server.admin.administration import Administration
from appliance.server.app import make_app
from appliance.server.context import ServerContext
from appliance.server.guard import Guard
from appliance.server.listener import Listener
from appliance.tls import device_certificate, pin_of, server_context
from appliance.updates import IncomingUpdate

_LOGGER = logging.getLogger(__name__)


async def serve_safely(
    config: Config,
    home: Home,
    stopping: asyncio.Event,
    on_ready: Callable[[int], None],
    *,
    reopen_claim: bool = False,
) -> None:
    """Serve until told to stop; `on_ready` gets the port. HTTPS is served too, where that is possible at all.

    Raises:
        ConfigError: the address cannot be bound.
    """
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.to_thread(home.leave_safe_mode.unlink, missing_ok=True)
        device_id = await asyncio.to_thread(load_device_id, home)
        tls, pin = await asyncio.to_thread(_tls, home, device_id)
        endpoints = _endpoints(config, with_https=tls is not None)
        stack.callback(endpoints.close)
        access = await asyncio.to_thread(open_access, config.server, home, is_exposed=False, reopen_claim=reopen_claim)
        threads = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="text"))
        store = BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys))
        pool = _idle_pool(config, home, store, stopping)
        stack.push_async_callback(pool.close)
        installer = Installer(store, EngineSettings())
        administration = Administration(pool, installer, access.store, access.claiming, trusted_keys=home.trusted_keys)
        context = ServerContext(
            pool,
            access.ring,
            Guard(host_names=own_host_names(config, host_name(device_id))),
            threads,
            started_s=int(time.time()),
            leave_safe_mode=partial(_leave, home, asyncio.get_running_loop(), stopping),
            administration=administration,
            plain_administration=config.server.plain_administration,
            incoming_update=IncomingUpdate(home.updates),
        )
        listener = Listener(make_app(context), endpoints.http, tls_sockets=endpoints.https, tls=tls)
        stack.push_async_callback(listener.close)
        stack.push_async_callback(administration.close)
        await pool.start()
        await listener.start()
        port = endpoints.all[0].getsockname()[1]
        await stack.enter_async_context(told_locally(home.running, f"http://127.0.0.1:{port}", pin, access.local_key))
        notify("READY=1")
        on_ready(port)
        await stopping.wait()
        notify("STOPPING=1")


def _leave(home: Home, loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    """End safe mode once what runs is answered; called in a thread."""
    write_whole(home.leave_safe_mode, b"")
    loop.call_soon_threadsafe(stopping.set)


def _endpoints(config: Config, *, with_https: bool) -> Endpoints:
    """Plain HTTP in any case, for /health; HTTPS where its port is free."""
    plain = config.model_copy(
        update={
            "server": config.server.model_copy(update={"http": True}),
            "tls": config.tls.model_copy(update={"enabled": False}),
        }
    )
    if with_https:
        try:
            return open_endpoints(plain.model_copy(update={"tls": config.tls.model_copy(update={"enabled": True})}))
        except ConfigError as err:
            _LOGGER.warning("there is no HTTPS: %s", err.message)
    return open_endpoints(plain)


def _tls(home: Home, device_id: str) -> tuple[ssl.SSLContext | None, str | None]:
    """The device's own certificate, which is there even where the settings are not to be trusted."""
    try:
        certificate = device_certificate(home.tls, host_name=host_name(device_id))
        return server_context(certificate, certificate), pin_of(certificate)
    except (ConfigError, OSError) as err:
        _LOGGER.warning("there is no HTTPS: %s", err)
        return None, None


def _idle_pool(config: Config, home: Home, store: BundleStore, stopping: asyncio.Event) -> ModelPool:
    """A pool that knows what is installed, and loads none of it."""
    return ModelPool(
        store,
        cache=home.prepacked,
        settings=EngineSettings(),
        aliases=config.models.aliases,
        on_failure=lambda _: stopping.set(),
        pool_settings=PoolSettings(preload=()),
    )
