"""GET /identity: the names, addresses and certificate of this device, and if it can be claimed; for everybody.

The landing page on plain HTTP, the page on HTTPS and the claim read it. It holds nothing that the device does not also
announce on the network, but the name and time of its claim.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from aiohttp import web

from appliance import __version__
from appliance.access.claim import ClaimRecord
from appliance.server.context import CONTEXT
from appliance.server.http.peer import is_local
from appliance.server.http.routing import Access, Routes
from appliance.server.http.wire import Answer

ROUTES = Routes()

ClaimState = Literal["code", "open", "claimed", "off"]


class Certificate(Answer):
    """The certificate of HTTPS: as the commands compare it, and its SHA-256 as browsers show it."""

    pin: str
    fingerprint: str


class Claim(Answer):
    """The latest claim; the name is empty where a command made the first key. `claimed` is seconds since 1970."""

    name: str
    claimed: int


class IdentityAnswer(Answer):
    """The device. `url` is its page under its own name, `alias` a shorter name that it holds now.

    `claim` is `code` if a claim by this client needs the code that the device shows, `open` if it needs none.
    """

    id: str
    name: str
    alias: str | None
    addresses: list[str]
    url: str | None
    https_port: int | None
    version: str
    certificate: Certificate | None
    claim: ClaimState
    claimed_by: Claim | None


@ROUTES.get(
    "/identity",
    access=Access.OPEN,
    operation="identity",
    summary="The names and the certificate of this device",
    answer=IdentityAnswer,
)
async def identity(request: web.Request) -> web.Response:
    """Return the names, the certificate and the state of the claim."""
    context = request.app[CONTEXT]
    device, administration = context.identity, context.administration
    found = device.fingerprints()
    state: ClaimState = "off"
    record: ClaimRecord | None = None
    if administration is not None and administration.is_claimable:
        is_open, record = await administration.claim_state()
        needs_code = administration.needs_claim_code and not is_local(request)
        state = ("code" if needs_code else "open") if is_open else "claimed"
    body: IdentityAnswer = {
        "id": device.id,
        "name": device.host,
        "alias": device.alias(),
        "addresses": list(await asyncio.to_thread(device.addresses)),
        "url": device.url,
        "https_port": device.https_port,
        "version": __version__,
        "certificate": {"pin": found.pin, "fingerprint": found.certificate} if found is not None else None,
        "claim": state,
        "claimed_by": {"name": record.name, "claimed": record.claimed_s} if record is not None else None,
    }
    return web.json_response(body)
