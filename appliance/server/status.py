"""GET /health (liveness, for everybody, nothing private), /ready and /metrics."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from appliance import __version__
from appliance.errors import UnavailableError
from appliance.server.context import CONTEXT, State
from appliance.server.http.routing import Access, Routes
from appliance.server.http.wire import Answer

ROUTES = Routes()

_ALIVE = frozenset[State]({"ok", "degraded", "unclaimed"})


class Health(Answer):
    """The state of the service, and the counts of its engines by model."""

    status: State
    version: str
    throttled: bool
    engines: dict[str, dict[str, int]]


class Readiness(Answer):
    """The models of a server that takes requests, and the faults that it started with."""

    status: State
    models: list[str]
    faults: list[str]


@ROUTES.get(
    "/health",
    access=Access.OPEN,
    operation="health",
    summary="Whether requests are taken",
    answer=Health,
    is_polled=True,
)
async def health(request: web.Request) -> web.Response:
    """Return the state; degraded means that a bundle or the settings were refused."""
    context = request.app[CONTEXT]
    state = context.state
    pool = context.pool
    engines = {m.bundle.name: asdict(stats) for m in pool.loaded() if (stats := m.thread.stats()) is not None}
    body: Health = {
        "status": state,
        "version": __version__,
        "throttled": context.thermal().is_throttled,
        "engines": engines,
    }
    return web.json_response(body, status=200 if state in _ALIVE else 503)


@ROUTES.get("/ready", access=Access.INFERENCE, answer=Readiness, is_polled=True)
async def ready(request: web.Request) -> web.Response:
    """Answer 200 while new requests are taken, else 503; faults are listed here, behind the key."""
    context = request.app[CONTEXT]
    state = context.state
    if state not in {"ok", "degraded"}:
        raise UnavailableError(f"The server is {state}.")
    body: Readiness = {"status": state, "models": [m.id for m in context.pool.listed()], "faults": context.all_faults()}
    return web.json_response(body)


@ROUTES.get("/metrics", access=Access.INFERENCE, is_polled=True)
async def metrics(request: web.Request) -> web.Response:
    """Return the metrics in Prometheus' text format."""
    page = await asyncio.to_thread(request.app[CONTEXT].metrics.text)
    return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})
