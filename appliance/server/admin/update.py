"""/admin/update: the running system and its last update; and the upload of an update as clients of 0.1.0 do it.

Those POST the size, PUT pieces with Content-Range and PATCH the SHA-256. They cannot resume: `update_uploads` can.
"""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import Annotated, Literal

from aiohttp import hdrs, web
from pydantic import Field

from appliance.errors import InvalidRequestError
from appliance.server.admin.access import administration_of
from appliance.server.admin.pieces import append_body, check_piece
from appliance.server.http.body import read_as
from appliance.server.http.routing import PIECE_TYPE, Access, Routes, in_header
from appliance.server.http.wire import Answer, Wire
from appliance.system.incoming_update import UpdateStatus

_LOGGER = logging.getLogger(__name__)

ROUTES = Routes()

_RANGE = re.compile(r"^bytes (\d{1,12})-(\d{1,12})/(\d{1,12})$")
_RANGE_HEADER = in_header(
    "Content-Range", "The bytes of the body, as `bytes FIRST-LAST/SIZE`.", _RANGE.pattern, is_required=True
)


class BeginRequest(Wire):
    """The size of the update's file."""

    size_bytes: Annotated[int, Field(ge=1)]


class FinishRequest(Wire):
    """The SHA-256 of the update's file."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class UpdateState(Answer):
    """The running system, the result of its last update, and the bytes of the next one that have arrived."""

    object: Literal["update"]
    running: str
    step: str
    version: str
    detail: str
    failed: str
    received: int


class UpdatePiece(Answer):
    """The bytes of an update that have arrived."""

    object: Literal["update"]
    received: int


@ROUTES.get(
    "/admin/update",
    access=Access.ADMINISTRATION,
    operation="getUpdate",
    summary="The running system and its last update",
    answer=UpdateState,
)
async def show_update(request: web.Request) -> web.Response:
    """Tell the running version, and the result of the last update."""
    return web.json_response(update_body(await administration_of(request).updates.status()))


@ROUTES.post(
    "/admin/update",
    access=Access.ADMINISTRATION,
    operation="beginUpdate",
    summary="Begin with an update, as 0.1.0 does",
    request=BeginRequest,
    answer=UpdateState,
    statuses=(HTTPStatus.CREATED,),
)
async def begin_update(request: web.Request) -> web.Response:
    """Answer 201, and wait for pieces."""
    wire = await read_as(request, BeginRequest)
    status = await administration_of(request).updates.begin_unnamed(wire.size_bytes)
    return web.json_response(update_body(status), status=HTTPStatus.CREATED)


@ROUTES.put(
    "/admin/update",
    access=Access.ADMINISTRATION,
    operation="putUpdatePiece",
    summary="A piece of an update, as 0.1.0 sends it",
    body_type=PIECE_TYPE,
    answer=UpdatePiece,
    parameters=(_RANGE_HEADER,),
)
async def put_piece(request: web.Request) -> web.Response:
    """Append one piece; bytes that came before a connection broke are kept."""
    check_piece(request)
    match = _RANGE.match(request.headers.get(hdrs.CONTENT_RANGE, ""))
    if match is None:
        raise InvalidRequestError(
            "A piece needs Content-Range: bytes FIRST-LAST/SIZE.", param=hdrs.CONTENT_RANGE, code="invalid_range"
        )
    async with administration_of(request).updates.writing_unnamed() as file:
        received = await append_body(request, file, int(match[1]))
    body: UpdatePiece = {"object": "update", "received": received}
    return web.json_response(body)


@ROUTES.patch(
    "/admin/update",
    access=Access.ADMINISTRATION,
    operation="finishUpdate",
    summary="Check and install an update, as 0.1.0 asks for it",
    request=FinishRequest,
    answer=UpdateState,
    statuses=(HTTPStatus.ACCEPTED,),
)
async def finish_update(request: web.Request) -> web.Response:
    """Answer 202: the update is checked and installed from now on; GET tells the result."""
    wire = await read_as(request, FinishRequest)
    status = await administration_of(request).updates.finish_unnamed(wire.sha256)
    _LOGGER.warning("an update was received from %s", request.remote)
    return web.json_response(update_body(status), status=HTTPStatus.ACCEPTED)


def update_body(status: UpdateStatus) -> UpdateState:
    """Describe the state of an update."""
    state = status.state
    return {
        "object": "update",
        "running": state.running,
        "step": state.step.value,
        "version": state.version,
        "detail": state.detail,
        "failed": state.failed,
        "received": status.received,
    }
