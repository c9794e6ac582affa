"""GET /admin/aliases, PUT and DELETE /admin/aliases/ALIAS: other names for installed models."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import Field

from appliance.install.administration import Administration
from appliance.server.admin.access import administration_of, refusals
from appliance.server.http.body import read_as
from appliance.server.http.routing import Access, Routes, in_path
from appliance.server.http.wire import Answer, Wire

ROUTES = Routes()

_ALIAS = in_path("alias", "Another name for a model; it may hold slashes and colons.")


class AliasRequest(Wire):
    """The model that an alias stands for."""

    model: Annotated[str, Field(min_length=1, max_length=128)]


class AliasMap(Answer):
    """Alias to model."""

    aliases: dict[str, str]


@ROUTES.get(
    "/admin/aliases",
    access=Access.ADMINISTRATION,
    operation="listAliases",
    summary="Other names of models",
    answer=AliasMap,
)
async def list_aliases(request: web.Request) -> web.Response:
    """List the aliases of installed models, from the settings and from here."""
    return _answer(administration_of(request))


@ROUTES.put(
    "/admin/aliases/{alias:.+}",
    access=Access.ADMINISTRATION,
    operation="setAlias",
    summary="Give another name",
    request=AliasRequest,
    answer=AliasMap,
    parameters=(_ALIAS,),
)
async def set_alias(request: web.Request) -> web.Response:
    """Set an alias for a model."""
    administration, alias = administration_of(request), request.match_info["alias"]
    wire = await read_as(request, AliasRequest)
    with refusals():
        await administration.set_alias(alias, wire.model)
    return _answer(administration)


@ROUTES.delete(
    "/admin/aliases/{alias:.+}",
    access=Access.ADMINISTRATION,
    operation="removeAlias",
    summary="Take it back",
    answer=AliasMap,
    parameters=(_ALIAS,),
)
async def remove_alias(request: web.Request) -> web.Response:
    """Forget an alias that was set here."""
    administration, alias = administration_of(request), request.match_info["alias"]
    with refusals():
        await administration.remove_alias(alias)
    return _answer(administration)


def _answer(administration: Administration) -> web.Response:
    body: AliasMap = {"aliases": administration.aliases()}
    return web.json_response(body)
