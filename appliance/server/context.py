"""The collaborators of the handlers, composed once and read from the application."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from aiohttp import web

from appliance.access.keyring import KeyRing
from appliance.diagnosis.finding import Finding
from appliance.errors import UnavailableError
from appliance.host.thermal import Thermal
from appliance.identity.own_identity import OwnIdentity
from appliance.models import ModelPool
from appliance.server.http.cors import Cors
from appliance.server.http.guard import Guard
from appliance.server.http.metrics import Metrics
from appliance.server.http.request_log import RequestLog
from appliance.server.state.background import Background
from appliance.server.state.history import History
from appliance.server.state.responses import ResponseStore
from appliance.server.state.sealing import Sealer
from appliance.text.cl100k import Cl100k

State = Literal["starting", "unclaimed", "ok", "degraded", "draining", "safe"]

if TYPE_CHECKING:
    from appliance.install.administration import Administration


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another device on the network, as it announces itself: its name is foreign text."""

    name: str
    url: str
    address: str
    state: str
    num_models: int
    version: str | None


async def _nobody() -> Sequence[Neighbour]:
    return ()


def _cannot_restart() -> None:
    raise UnavailableError("This server cannot start itself again.")


Examination = Callable[[Sequence[str]], Iterable[Finding]]
"""A function that takes the faults that the server knows, and returns every finding; it blocks for seconds."""


@dataclass(frozen=True, slots=True)
class OwnDevice:
    """The acts of the device around the server.

    `examine` blocks for seconds; `examining` lets one caller at a time do it. `restart` raises ConflictError if the
    device may not restart now.
    """

    examine: Examination = lambda _: ()
    examining: asyncio.Lock = field(default_factory=asyncio.Lock)
    search: Callable[[], Awaitable[Sequence[Neighbour]]] = _nobody
    restart: Callable[[], None] = _cannot_restart


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The server's collaborators and limits. `text_threads` runs templates and tokenizers off the event loop.

    `faults` are troubles that did not stop the service, such as settings that are not valid. `plain_administration`
    lets other machines administer over plain HTTP. `leave_safe_mode` ends safe mode; None outside of it. `token_ids`:
    the vocabulary of the token arrays that embeddings are asked for.
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
    token_ids: Literal["cl100k", "own", "refuse"] = "cl100k"  # noqa: S105  # no secret
    cl100k: Cl100k = field(default_factory=Cl100k)
    metrics: Metrics = field(default_factory=Metrics)
    thermal: Callable[[], Thermal] = Thermal
    faults: tuple[str, ...] = ()
    leave_safe_mode: Callable[[], Awaitable[None]] | None = None
    cors: Cors = field(default_factory=Cors)
    administration: Administration | None = None
    plain_administration: bool = False
    responses: ResponseStore = field(default_factory=ResponseStore)
    background: Background = field(default_factory=Background)
    sealer: Sealer = field(default_factory=Sealer)
    identity: OwnIdentity = field(default_factory=OwnIdentity)
    history: History = field(default_factory=History)
    requests: RequestLog = field(default_factory=RequestLog)
    device: OwnDevice = field(default_factory=OwnDevice)

    @property
    def state(self) -> State:
        """Return the state of the service; degraded means that a bundle or the settings were refused."""
        if self.is_safe_mode:
            return "safe"
        if self.is_draining():
            return "draining"
        if not self.pool.is_ready:
            return "starting"
        if self.keys.is_unclaimed:
            return "unclaimed"
        return "degraded" if self.pool.damaged or self.faults or self.responses.fault else "ok"

    def all_faults(self) -> list[str]:
        """Return the faults of the start, of the stored responses, and of the models."""
        stored = [self.responses.fault] if self.responses.fault is not None else []
        return [*self.faults, *stored, *(f"{name}: {reason}" for name, reason in sorted(self.pool.damaged.items()))]

    @property
    def is_safe_mode(self) -> bool:
        """True if only liveness and administration answer."""
        return self.leave_safe_mode is not None


CONTEXT = web.AppKey("context", ServerContext)
