"""The appliance in one event loop: its parts started in order, and stopped in reverse."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from appliance.access.local import published_run_file
from appliance.background import run_in_background
from appliance.errors import BundleError
from appliance.host.allocator import trimming
from appliance.host.sdnotify import notify, watchdog_interval_s
from appliance.models import ModelPool
from appliance.service.composition import Parts
from appliance.service.watchdog import Watchdog, WatchedThread


class Service:
    """The whole appliance. `run` returns when it was told to stop, or raises why it cannot go on."""

    def __init__(self, parts: Parts, *, on_ready: Callable[[Service], None] = lambda _: None) -> None:
        """`on_ready` is called once, when the first request can be answered."""
        self._parts = parts
        self._on_ready = on_ready

    @property
    def port(self) -> int:
        """The port in use."""
        return self._parts.endpoints.port

    @property
    def https_port(self) -> int | None:
        """The port of HTTPS, if it is served."""
        return self._parts.endpoints.https_port

    @property
    def base_url(self) -> str:
        """The base URL for an SDK on this machine."""
        return f"{self._parts.endpoints.root_url}/v1"

    def page_url(self, *, with_key: bool) -> str:
        """Return the address of the page on this machine; where a key is needed, it may carry this run's own one.

        That key is in the fragment, which no browser sends, and the page takes it out of the address.
        """
        url, ring = f"{self._parts.endpoints.root_url}/", self._parts.access.ring
        needs_key = not (ring.is_open or ring.is_unclaimed)
        return f"{url}#key={self._parts.access.local_key}" if with_key and needs_key else url

    @property
    def pool(self) -> ModelPool:
        """The loaded models."""
        return self._parts.pool

    def stop(self) -> None:
        """Begin an orderly stop."""
        self._parts.stopping.set()

    async def run(self) -> None:
        """Serve until told to stop.

        Raises:
            BundleError: no model can be served.
            ModelError: a model failed while running; start again.
        """
        parts = self._parts
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(parts.endpoints.close)
            stack.callback(parts.text_threads.shutdown, wait=False, cancel_futures=True)
            await stack.enter_async_context(parts.kept_responses)
            listener = await stack.enter_async_context(parts.listener)
            if not parts.endpoints.are_passed:
                await listener.accept()
            await asyncio.to_thread(parts.installer.sweep)
            await stack.enter_async_context(parts.pool)
            self._check_models()
            await stack.enter_async_context(parts.key_usage)
            await stack.enter_async_context(parts.administration)
            if parts.endpoints.are_passed:  # clients wait in the sockets before this, and again from the stop on
                await listener.accept()
                stack.callback(listener.stop_accepting)
            await stack.enter_async_context(parts.heat)
            await stack.enter_async_context(parts.recorder)
            await stack.enter_async_context(trimming())
            await stack.enter_async_context(parts.announcing)
            if (interval_s := watchdog_interval_s()) is not None:
                await stack.enter_async_context(Watchdog(self._model_threads, interval_s=interval_s))
            pin = parts.certificate.pin if parts.certificate is not None else None
            published = published_run_file(
                *(parts.home.running, parts.endpoints.root_url, pin, parts.access.local_key),
                alias=lambda: parts.announcing.alias,
            )
            publish_pin = await stack.enter_async_context(published)
            await stack.enter_async_context(self._following_certificate(publish_pin))
            await stack.enter_async_context(run_in_background(self._follow_alias(publish_pin), name="alias"))
            notify("READY=1")
            self._on_ready(self)
            await parts.stopping.wait()
            notify("STOPPING=1")
        if parts.stopping.failure is not None:
            raise parts.stopping.failure

    @contextlib.asynccontextmanager
    async def _following_certificate(self, publish_pin: Callable[[str | None], Awaitable[None]]) -> AsyncIterator[None]:
        """Use, announce and publish another certificate when it replaces the one that is served."""
        parts = self._parts
        if (certificate := parts.certificate) is None:
            yield
            return

        async def change() -> None:
            parts.listener.use_certificate(certificate.context)
            parts.announcing.refresh()
            await publish_pin(certificate.pin)

        async with certificate.followed(change):
            yield

    async def _follow_alias(self, publish_pin: Callable[[str | None], Awaitable[None]]) -> None:
        """Publish the short host name to this machine whenever it is won or lost."""
        parts = self._parts
        while True:
            await parts.announcing.alias_changed()
            await publish_pin(parts.certificate.pin if parts.certificate is not None else None)

    def _check_models(self) -> None:
        """Go on without any model only if an administrator can send one."""
        parts = self._parts
        if not parts.pool.installed() and parts.access.ring.is_open:
            default = f"no model is installed in {parts.home.bundles}"
            reason = next(iter(parts.pool.damaged.values()), default)
            raise BundleError(f"{reason}; build the starter models with: lantern-quantize starter")

    def _model_threads(self) -> list[WatchedThread]:
        return [model.thread for model in self._parts.pool.loaded()]
