"""GET and POST /admin/keys, DELETE /admin/keys/NAME: the keys of this device, of which only new ones are ever shown."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Any

from aiohttp import web
from pydantic import Field, WithJsonSchema

from appliance.errors import ConflictError
from appliance.keystore import ApiKey, KeyStore, Role
from appliance.server.admin.administration import administration_of, refusals
from appliance.server.body import read_as
from appliance.server.context import CONTEXT
from appliance.server.parse import Wire

ROUTES = web.RouteTableDef()


class KeyRequest(Wire):
    """A key to be made; `rate` is requests a minute."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    role: Annotated[Role, Field(strict=False), WithJsonSchema({"enum": [r.value for r in Role]})] = Role.INFERENCE
    rate: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


@ROUTES.get("/admin/keys")
async def list_keys(request: web.Request) -> web.Response:
    """What keys there are, which is not the keys."""
    keys = await asyncio.to_thread(administration_of(request).keys.all)
    return web.json_response({"keys": [_describe(key) for key in keys]})


@ROUTES.post("/admin/keys")
async def create_key(request: web.Request) -> web.Response:
    """201 with the key, which is shown once."""
    administration = administration_of(request)
    wire = await read_as(request, KeyRequest)
    with refusals():
        new = await asyncio.to_thread(administration.keys.create, wire.name, role=wire.role, rate=wire.rate)
    await request.app[CONTEXT].keys.refresh()
    return web.json_response({**_describe(new.key), "key": new.secret}, status=HTTPStatus.CREATED)


@ROUTES.delete("/admin/keys/{name}")
async def revoke_key(request: web.Request) -> web.Response:
    """Forget a key; the last one for administration only by command on the device."""
    keys = administration_of(request).keys
    with refusals():
        await asyncio.to_thread(_revoke, keys, request.match_info["name"])
    await request.app[CONTEXT].keys.refresh()
    return web.json_response({"keys": [_describe(key) for key in await asyncio.to_thread(keys.all)]})


def _revoke(keys: KeyStore, name: str) -> None:
    administrators = [key.name for key in keys.all() if key.role is Role.ADMINISTRATION]
    if administrators == [name]:
        raise ConflictError(
            f"{name} is the last key for administration, and nobody could make another; make one first, or revoke it "
            "by command on the device."
        )
    keys.revoke(name)


def _describe(key: ApiKey) -> dict[str, Any]:
    return {"id": key.id, "name": key.name, "role": key.role.value, "rate": key.rate, "created": key.created_s}
