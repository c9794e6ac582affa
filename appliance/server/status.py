"""GET /health (liveness, for everybody, nothing private), /ready and /metrics."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from appliance import __version__
from appliance.errors import UnavailableError
from appliance.models import ChatModel
from appliance.server.context import CONTEXT, ServerContext

ROUTES = web.RouteTableDef()

_ALIVE = frozenset({"ok", "degraded", "unclaimed"})


@ROUTES.get("/health")
async def health(request: web.Request) -> web.Response:
    """`status` is starting, unclaimed, ok, degraded (a bundle or the settings were refused), draining or safe."""
    context = request.app[CONTEXT]
    state = _state(context)
    pool = context.pool
    engines = {m.bundle.name: asdict(m.engine.stats()) for m in pool.loaded() if isinstance(m, ChatModel)}
    body = {
        "status": state,
        "version": __version__,
        "throttled": context.thermal().is_throttled,
        "engines": engines,
    }
    return web.json_response(body, status=200 if state in _ALIVE else 503)


@ROUTES.get("/ready")
async def ready(request: web.Request) -> web.Response:
    """200 while new requests are taken, else 503; what is wrong is told here, behind the key."""
    context = request.app[CONTEXT]
    state = _state(context)
    if state not in {"ok", "degraded"}:
        raise UnavailableError(f"The server is {state}.")
    faults = [*context.faults, *(f"{name}: {reason}" for name, reason in sorted(context.pool.damaged.items()))]
    return web.json_response({"status": state, "models": [m.id for m in context.pool.listed()], "faults": faults})


@ROUTES.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    """Prometheus' text format."""
    page = await asyncio.to_thread(request.app[CONTEXT].metrics.text)
    return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})


def _state(context: ServerContext) -> str:
    if context.is_safe_mode:
        return "safe"
    if context.is_draining():
        return "draining"
    if not context.pool.is_ready:
        return "starting"
    if context.keys.is_unclaimed:
        return "unclaimed"
    return "degraded" if context.pool.damaged or context.faults else "ok"
