"""GET and POST /admin/keys, PATCH and DELETE /admin/keys/NAME: the API keys of this device.

A secret is shown once, when its key is made.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from aiohttp import web
from pydantic import Field, WithJsonSchema

from appliance.access.key_info import ApiKeyInfo, NewApiKey, describe_key, describe_new_key
from appliance.access.keystore import Role
from appliance.install.administration import Administration
from appliance.server.admin.access import administration_of, refusals
from appliance.server.http.body import read_as
from appliance.server.http.routing import Access, Routes, in_path
from appliance.server.http.wire import Answer, Wire

ROUTES = Routes()

_NAME = in_path("name", "The name of a key.")


class KeyRequest(Wire):
    """A key to be made; `rate` is requests a minute."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    role: Annotated[Role, Field(strict=False), WithJsonSchema({"enum": [r.value for r in Role]})] = Role.INFERENCE
    rate: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class RateRequest(Wire):
    """Another rate for a key, in requests a minute; any number without it."""

    rate: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class ApiKeyList(Answer):
    """Every key that was made here."""

    keys: list[ApiKeyInfo]


@ROUTES.get(
    "/admin/keys",
    access=Access.ADMINISTRATION,
    operation="listKeys",
    summary="What keys there are",
    answer=ApiKeyList,
)
async def list_keys(request: web.Request) -> web.Response:
    """List key metadata; secrets are never returned."""
    return await _listed(administration_of(request))


@ROUTES.post(
    "/admin/keys",
    access=Access.ADMINISTRATION,
    operation="createKey",
    summary="Make a key",
    request=KeyRequest,
    answer=NewApiKey,
    statuses=(HTTPStatus.CREATED,),
)
async def create_key(request: web.Request) -> web.Response:
    """Answer 201 with the key, which is shown once."""
    administration = administration_of(request)
    wire = await read_as(request, KeyRequest)
    with refusals():
        new = await administration.create_key(wire.name, role=wire.role, rate=wire.rate)
    body: NewApiKey = describe_new_key(new)
    return web.json_response(body, status=HTTPStatus.CREATED)


@ROUTES.patch(
    "/admin/keys/{name}",
    access=Access.ADMINISTRATION,
    operation="changeKey",
    summary="Give a key another rate",
    request=RateRequest,
    answer=ApiKeyList,
    parameters=(_NAME,),
)
async def change_key(request: web.Request) -> web.Response:
    """Give a key another rate, which counts from the next request on."""
    administration = administration_of(request)
    wire = await read_as(request, RateRequest)
    with refusals():
        await administration.set_rate(request.match_info["name"], wire.rate)
    return await _listed(administration)


@ROUTES.delete(
    "/admin/keys/{name}",
    access=Access.ADMINISTRATION,
    operation="revokeKey",
    summary="Forget a key",
    answer=ApiKeyList,
    parameters=(_NAME,),
)
async def revoke_key(request: web.Request) -> web.Response:
    """Revoke a key; the last administration key is revoked only by command on the device."""
    administration = administration_of(request)
    with refusals():
        await administration.revoke_key(request.match_info["name"])
    return await _listed(administration)


async def _listed(administration: Administration) -> web.Response:
    used = administration.key_use()
    body: ApiKeyList = {"keys": [describe_key(key, used.get(key.id)) for key in await administration.keys()]}
    return web.json_response(body)
