"""What every handler needs, put together once by the service and read from the application."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from appliance.host.thermal import Thermal
from appliance.models import ModelPool
from appliance.server.cors import Cors
from appliance.server.guard import Guard
from appliance.server.keys import KeyRing
from appliance.server.metrics import Metrics
from appliance.updates import IncomingUpdate

if TYPE_CHECKING:
    from appliance.server.admin.administration import Administration


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The server's collaborators and limits. `text_threads` runs templates and tokenizers off the event loop.

    `faults` are what the service could start in spite of, such as settings that are not valid. `plain_administration`
    lets other machines administer over plain HTTP. `leave_safe_mode` ends safe mode, and blocks.
    """

    pool: ModelPool
    keys: KeyRing
    guard: Guard
    text_threads: ThreadPoolExecutor
    started_s: int
    is_draining: Callable[[], bool] = lambda: False
    max_body_bytes: int = 16 << 20
    ping_interval_s: float = 5.0
    write_timeout_s: float = 30.0
    max_wait_s: float = 30.0
    max_choices: int = 8
    metrics: Metrics = field(default_factory=Metrics)
    thermal: Callable[[], Thermal] = Thermal
    faults: tuple[str, ...] = ()
    leave_safe_mode: Callable[[], None] | None = None
    cors: Cors = field(default_factory=Cors)
    administration: Administration | None = None
    plain_administration: bool = False
    incoming_update: IncomingUpdate | None = None

    @property
    def is_safe_mode(self) -> bool:
        """Whether only liveness and administration answer."""
        return self.leave_safe_mode is not None


CONTEXT = web.AppKey("context", ServerContext)
REQUEST_ID = web.RequestKey("request_id", str)
KEY_ID = web.RequestKey("key_id", str)
