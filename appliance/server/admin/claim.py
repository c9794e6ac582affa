"""POST /admin/claim: the first administration key of a new device, for whoever asks first."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Annotated

from aiohttp import web
from pydantic import Field

from appliance.server.admin.administration import administration_of, refusals
from appliance.server.body import read_as
from appliance.server.context import CONTEXT
from appliance.server.parse import Wire

_LOGGER = logging.getLogger(__name__)

ROUTES = web.RouteTableDef()


class ClaimRequest(Wire):
    """Who claims the device, which becomes the name of the key."""

    name: Annotated[str, Field(min_length=1, max_length=64)]


@ROUTES.post("/admin/claim")
async def claim(request: web.Request) -> web.Response:
    """201 with the key, which is shown once; 409 from then on."""
    administration = administration_of(request)
    wire = await read_as(request, ClaimRequest)
    with refusals():
        new = await asyncio.to_thread(administration.claiming.claim, wire.name)
    await request.app[CONTEXT].keys.refresh()
    administration.tell_change()
    _LOGGER.warning("this device was claimed by %s from %s", new.key.name, request.remote)
    body = {"id": new.key.id, "name": new.key.name, "role": new.key.role.value, "key": new.secret}
    return web.json_response(body, status=HTTPStatus.CREATED)
