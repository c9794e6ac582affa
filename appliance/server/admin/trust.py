"""GET and POST /admin/trust, DELETE /admin/trust/KEY_ID: the signing keys whose bundles this device runs.

An upload never adds a key: the right to send a model does not make its maker known.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Annotated, NotRequired

from aiohttp import web
from pydantic import Field

from appliance.install.administration import Administration
from appliance.server.admin.access import administration_of, refusals
from appliance.server.http.body import read_as
from appliance.server.http.record import KEY_ID
from appliance.server.http.routing import Access, Routes, in_path
from appliance.server.http.wire import Answer, Wire

_LOGGER = logging.getLogger(__name__)

ROUTES = Routes()


class TrustRequest(Wire):
    """A public key in PEM form, as `lantern-quantize keygen --public FILE` writes it."""

    public_key: Annotated[str, Field(min_length=1, max_length=4096)]


class TrustedKeyList(Answer):
    """The ids of the keys whose bundles run here."""

    trusted: list[str]
    added: NotRequired[str]


@ROUTES.get(
    "/admin/trust",
    access=Access.ADMINISTRATION,
    operation="listTrusted",
    summary="Whose bundles run here",
    answer=TrustedKeyList,
)
async def list_trusted(request: web.Request) -> web.Response:
    """List the ids of the trusted keys."""
    return await _answer(administration_of(request))


@ROUTES.post(
    "/admin/trust",
    access=Access.ADMINISTRATION,
    operation="trustSigner",
    summary="Run what a key signed",
    request=TrustRequest,
    answer=TrustedKeyList,
    statuses=(HTTPStatus.CREATED,),
)
async def trust(request: web.Request) -> web.Response:
    """Run what this key signed, from now on."""
    administration = administration_of(request)
    wire = await read_as(request, TrustRequest)
    with refusals():
        signer = await administration.trust(wire.public_key.encode())
    _LOGGER.warning("%s made this device trust the signing key %s", request[KEY_ID], signer)
    return await _answer(administration, added=signer, status=HTTPStatus.CREATED)


@ROUTES.delete(
    "/admin/trust/{key_id}",
    access=Access.ADMINISTRATION,
    operation="distrustSigner",
    summary="Run it no more",
    answer=TrustedKeyList,
    parameters=(in_path("key_id", "The id of a signing key."),),
)
async def distrust(request: web.Request) -> web.Response:
    """Run nothing more that this key signed; its loaded models are unloaded."""
    administration, signer = administration_of(request), request.match_info["key_id"]
    with refusals():
        await administration.distrust(signer)
    return await _answer(administration)


async def _answer(
    administration: Administration, *, added: str | None = None, status: int = HTTPStatus.OK
) -> web.Response:
    body: TrustedKeyList = {"trusted": await administration.trusted()}
    if added:
        body["added"] = added
    return web.json_response(body, status=status)
