"""GET /v1/models and GET /v1/models/{id}."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from appliance.models import ListedModel
from appliance.server.context import CONTEXT

ROUTES = web.RouteTableDef()


@ROUTES.get("/v1/models")
async def list_models(request: web.Request) -> web.Response:
    """Every model and alias."""
    context = request.app[CONTEXT]
    data = [_describe(model, context.started_s) for model in context.pool.listed()]
    return web.json_response({"object": "list", "data": data})


@ROUTES.get("/v1/models/{id:.+}")
async def retrieve_model(request: web.Request) -> web.Response:
    """One model; ids may hold slashes and colons, escaped or not."""
    context = request.app[CONTEXT]
    return web.json_response(_describe(context.pool.find(request.match_info["id"]), context.started_s))


def _describe(model: ListedModel, created_s: int) -> dict[str, Any]:
    kind = model.bundle.manifest.model.kind
    return {"id": model.id, "object": "model", "created": created_s, "owned_by": "lantern", "kind": kind}
