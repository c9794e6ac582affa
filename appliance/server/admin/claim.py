"""POST /admin/claim: the first administration key of a new device, for the first client that proves presence."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field

from appliance.access.claim import Claimant
from appliance.server.admin.access import administration_of, refusals
from appliance.server.http.body import read_as
from appliance.server.http.peer import is_local
from appliance.server.http.routing import Access, Routes
from appliance.server.http.wire import Answer, Wire

_LOGGER = logging.getLogger(__name__)

ROUTES = Routes()


class ClaimRequest(Wire):
    """The owner's name, which becomes the name of the key, and the code that the device shows."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    code: Annotated[str, Field(max_length=128)] | None = None


class ClaimedKey(Answer):
    """The first administration key, this once."""

    id: str
    name: str
    role: Literal["administration"]
    key: str


@ROUTES.post(
    "/admin/claim",
    access=Access.CLAIM,
    operation="claimDevice",
    summary="The first administration key, for the code that the device shows",
    request=ClaimRequest,
    answer=ClaimedKey,
    statuses=(HTTPStatus.CREATED,),
)
async def claim(request: web.Request) -> web.Response:
    """Answer 201 with the key, which is shown once; 409 from then on; 403 or 429 without the right code."""
    administration = administration_of(request)
    wire = await read_as(request, ClaimRequest)
    claimant = Claimant(wire.name, address=request.remote or "", code=wire.code, is_local=is_local(request))
    with refusals():
        new = await administration.claim(claimant)
    _LOGGER.warning("this device was claimed by %s from %s", new.key.name, request.remote)
    body: ClaimedKey = {"id": new.key.id, "name": new.key.name, "role": "administration", "key": new.secret}
    return web.json_response(body, status=HTTPStatus.CREATED)
