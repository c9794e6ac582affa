"""The appliance after too many failures: no model is loaded; /health and administration answer, the rest is 503.

So a model that brings the service down can be removed or rolled back from another machine. An administrator ends it:
then the process exits with 0 and leaves a note for lantern-recover.service, which starts the appliance.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from appliance.access.local import published_run_file
from appliance.host.sdnotify import notify
from appliance.service.composition import Parts


class SafeMode:
    """A server composed for safe mode. `run` returns when it was told to stop."""

    def __init__(self, parts: Parts, *, on_ready: Callable[[SafeMode], None] = lambda _: None) -> None:
        """`on_ready` is called once, when the first request can be answered."""
        self._parts = parts
        self._on_ready = on_ready

    @property
    def port(self) -> int:
        """The port of plain HTTP."""
        return self._parts.endpoints.port

    def stop(self) -> None:
        """Begin an orderly stop."""
        self._parts.stopping.set()

    async def run(self) -> None:
        """Serve until told to stop."""
        parts = self._parts
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(parts.endpoints.close)
            stack.callback(parts.text_threads.shutdown, wait=False, cancel_futures=True)
            await asyncio.to_thread(parts.home.leave_safe_mode.unlink, missing_ok=True)
            await stack.enter_async_context(parts.pool)
            listener = await stack.enter_async_context(parts.listener)
            await stack.enter_async_context(parts.administration)
            await stack.enter_async_context(parts.recorder)
            await listener.accept()
            pin = parts.certificate.pin if parts.certificate is not None else None
            url = f"http://127.0.0.1:{self.port}"
            await stack.enter_async_context(published_run_file(parts.home.running, url, pin, parts.access.local_key))
            notify("READY=1")
            self._on_ready(self)
            await parts.stopping.wait()
            notify("STOPPING=1")
