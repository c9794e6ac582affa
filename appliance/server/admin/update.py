"""/admin/update: an update of the whole system comes in pieces, is checked, and is installed by the image's own units.

POST begins with the size, PUT brings pieces with Content-Range, PATCH with the sum hands it over, GET tells how it is.
Signature and version are the installer's to judge; what it refuses changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
from http import HTTPStatus
from typing import Annotated

from aiohttp import hdrs, web
from pydantic import Field

from appliance.errors import InvalidRequestError, UnavailableError
from appliance.server.body import read_as
from appliance.server.context import CONTEXT
from appliance.server.parse import Wire
from appliance.updates import IncomingUpdate

_LOGGER = logging.getLogger(__name__)

ROUTES = web.RouteTableDef()

PATH = "/admin/update"
MAX_PIECE_BYTES = 16 << 20

_WRITE_BYTES = 1 << 20
_RANGE = re.compile(r"^bytes (\d{1,12})-(\d{1,12})/(\d{1,12})$")


class BeginRequest(Wire):
    """How large it is."""

    size_bytes: Annotated[int, Field(ge=1)]


class FinishRequest(Wire):
    """The sum over all of it."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@ROUTES.get(PATH)
async def show_update(request: web.Request) -> web.Response:
    """The running version, and what became of the last update."""
    return web.json_response(await asyncio.to_thread(_incoming(request).describe))


@ROUTES.post(PATH)
async def begin_update(request: web.Request) -> web.Response:
    """201: send it."""
    wire = await read_as(request, BeginRequest)
    incoming = _incoming(request)
    await asyncio.to_thread(incoming.begin, wire.size_bytes)
    return web.json_response(await asyncio.to_thread(incoming.describe), status=HTTPStatus.CREATED)


@ROUTES.put(PATH)
async def put_piece(request: web.Request) -> web.Response:
    """Append one piece; what came before a connection broke is kept."""
    match = _RANGE.match(request.headers.get(hdrs.CONTENT_RANGE, ""))
    if match is None or (request.content_length or 0) > MAX_PIECE_BYTES:
        raise InvalidRequestError(
            f"A piece needs Content-Range: bytes FIRST-LAST/SIZE, and has at most {MAX_PIECE_BYTES} bytes.",
            param=hdrs.CONTENT_RANGE,
            code="invalid_range",
        )
    incoming, offset, buffer = _incoming(request), int(match[1]), bytearray()
    async for data in request.content.iter_any():
        buffer += data
        if len(buffer) >= _WRITE_BYTES:
            offset = await asyncio.to_thread(incoming.write, offset, bytes(buffer))
            buffer.clear()
    offset = await asyncio.to_thread(incoming.write, offset, bytes(buffer))
    return web.json_response({"object": "update", "received": offset})


@ROUTES.patch(PATH)
async def finish_update(request: web.Request) -> web.Response:
    """202: it is checked and installed from now on; GET tells how that went."""
    wire = await read_as(request, FinishRequest)
    incoming = _incoming(request)
    await asyncio.to_thread(incoming.finish, wire.sha256)
    _LOGGER.warning("an update was received from %s", request.remote)
    return web.json_response(await asyncio.to_thread(incoming.describe), status=HTTPStatus.ACCEPTED)


def _incoming(request: web.Request) -> IncomingUpdate:
    incoming = request.app[CONTEXT].incoming_update
    if incoming is None:
        raise UnavailableError("This server takes no updates.")
    return incoming
