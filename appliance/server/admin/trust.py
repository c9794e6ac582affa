"""GET and POST /admin/trust, DELETE /admin/trust/KEY_ID: whose bundles this device runs.

An upload never adds a key: that somebody may send a model does not mean that its maker is known.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Annotated

from aiohttp import web
from pydantic import Field

from appliance.bundle import TrustedKeys
from appliance.bundle.signing import read_public_key
from appliance.server.admin.administration import Administration, administration_of, refusals
from appliance.server.body import read_as
from appliance.server.context import KEY_ID
from appliance.server.parse import Wire

_LOGGER = logging.getLogger(__name__)

ROUTES = web.RouteTableDef()


class TrustRequest(Wire):
    """A public key in PEM form, as `lantern-quantize keygen --public FILE` writes it."""

    public_key: Annotated[str, Field(min_length=1, max_length=4096)]


@ROUTES.get("/admin/trust")
async def list_trusted(request: web.Request) -> web.Response:
    """The ids of the keys that are trusted."""
    return await _answer(administration_of(request))


@ROUTES.post("/admin/trust")
async def trust(request: web.Request) -> web.Response:
    """Run what this key signed, from now on."""
    administration = administration_of(request)
    wire = await read_as(request, TrustRequest)
    with refusals():
        public = read_public_key(wire.public_key.encode())
    signer = await administration.change(lambda: TrustedKeys.add(administration.trusted_keys, public))
    _LOGGER.warning("%s made this device trust the signing key %s", request[KEY_ID], signer)
    return await _answer(administration, added=signer, status=HTTPStatus.CREATED)


@ROUTES.delete("/admin/trust/{key_id}")
async def distrust(request: web.Request) -> web.Response:
    """Run nothing that this key signed any more; models that are loaded leave."""
    administration, signer = administration_of(request), request.match_info["key_id"]
    with refusals():
        await administration.change(lambda: TrustedKeys.remove(administration.trusted_keys, signer))
    return await _answer(administration)


async def _answer(
    administration: Administration, *, added: str | None = None, status: int = HTTPStatus.OK
) -> web.Response:
    keys = sorted(await asyncio.to_thread(administration.installer.store.trusted.all))
    return web.json_response({"trusted": keys} | ({"added": added} if added else {}), status=status)
