"""GET /health: liveness for everybody, without a key and without anything private."""

from __future__ import annotations

from dataclasses import asdict

from aiohttp import web

from appliance import __version__
from appliance.models import ChatModel
from appliance.server.context import CONTEXT

ROUTES = web.RouteTableDef()


@ROUTES.get("/health")
async def health(request: web.Request) -> web.Response:
    """`status` is starting, ok, degraded (a bundle was refused) or draining; 503 unless requests are taken."""
    context = request.app[CONTEXT]
    pool = context.pool
    if context.is_draining():
        state = "draining"
    elif not pool.is_ready:
        state = "starting"
    else:
        state = "degraded" if pool.damaged else "ok"
    engines = {m.bundle.name: asdict(m.engine.stats()) for m in pool.loaded() if isinstance(m, ChatModel)}
    body = {"status": state, "version": __version__, "engines": engines}
    return web.json_response(body, status=200 if state in {"ok", "degraded"} else 503)
