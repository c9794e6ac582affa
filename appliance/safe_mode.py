"""What runs when the appliance failed too often: it loads no model, answers /health, and says 503 to the rest."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from appliance.bundle import BundleStore, TrustedKeys
from appliance.config import Config
from appliance.endpoints import open_endpoints
from appliance.home import Home
from appliance.host.sdnotify import notify
from appliance.models import EngineSettings, ModelPool
from appliance.server.app import make_app
from appliance.server.context import ServerContext
from appliance.server.guard import Guard
from appliance.server.keys import KeyRing
from appliance.server.listener import Listener


async def serve_health_only(
    config: Config, home: Home, stopping: asyncio.Event, on_ready: Callable[[int], None]
) -> None:
    """Serve plain HTTP until told to stop; `on_ready` gets the port.

    Raises:
        ConfigError: the address cannot be bound.
    """
    server = config.server.model_copy(update={"http": True})
    endpoints = open_endpoints(config.model_copy(update={"server": server, "tls": type(config.tls)()}))
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(endpoints.close)
        threads = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="text"))
        pool = ModelPool(
            BundleStore(home.bundles, TrustedKeys({})),
            cache=home.cache,
            settings=EngineSettings(),
            aliases={},
            on_failure=lambda _: stopping.set(),
        )
        guard = Guard(host_names=config.server.host_names)
        context = ServerContext(pool, KeyRing([]), guard, threads, started_s=int(time.time()), is_safe_mode=True)
        listener = Listener(make_app(context), endpoints.all)
        stack.push_async_callback(listener.close)
        await listener.start()
        notify("READY=1")
        on_ready(endpoints.all[0].getsockname()[1])
        await stopping.wait()
        notify("STOPPING=1")
