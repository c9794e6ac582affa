"""GET /admin/aliases, PUT and DELETE /admin/aliases/ALIAS: other names for installed models."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from aiohttp import web
from pydantic import Field

from appliance.server.admin.administration import administration_of, refusals
from appliance.server.body import read_as
from appliance.server.parse import Wire

ROUTES = web.RouteTableDef()


class AliasRequest(Wire):
    """What an alias is to stand for."""

    model: Annotated[str, Field(min_length=1, max_length=128)]


@ROUTES.get("/admin/aliases")
async def list_aliases(request: web.Request) -> web.Response:
    """Those that lead to an installed model, from the settings and from here."""
    return web.json_response({"aliases": dict(administration_of(request).pool.aliases)})


@ROUTES.put("/admin/aliases/{alias:.+}")
async def set_alias(request: web.Request) -> web.Response:
    """Let an alias stand for a model."""
    administration, alias = administration_of(request), request.match_info["alias"]
    wire = await read_as(request, AliasRequest)
    with refusals():
        await administration.change(partial(administration.installer.set_alias, alias, wire.model))
    return web.json_response({"aliases": dict(administration.pool.aliases)})


@ROUTES.delete("/admin/aliases/{alias:.+}")
async def remove_alias(request: web.Request) -> web.Response:
    """Forget an alias that was given here."""
    administration, alias = administration_of(request), request.match_info["alias"]
    with refusals():
        await administration.change(partial(administration.installer.remove_alias, alias))
    return web.json_response({"aliases": dict(administration.pool.aliases)})
