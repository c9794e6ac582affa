"""POST /admin/update/uploads and the routes below it: an update of the whole system arrives as a bundle does.

Its size and its SHA-256 come first. A complete update is handed to the image's own units, which verify its signature
and its version: a refused update changes nothing.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Annotated

from aiohttp import web
from pydantic import Field

from appliance.server.admin import pieces
from appliance.server.admin.access import administration_of
from appliance.server.admin.pieces import (
    FILE_NAME,
    RANGE_HEADER,
    UPLOAD_ID,
    UploadedFile,
    UploadList,
    UploadRemoved,
    UploadState,
)
from appliance.server.admin.update import UpdateState, update_body
from appliance.server.http.body import read_as
from appliance.server.http.routing import PIECE_TYPE, Access, Routes
from appliance.server.http.wire import Wire

_LOGGER = logging.getLogger(__name__)

ROUTES = Routes()


class UpdateUploadRequest(Wire):
    """The size and the SHA-256 of the update's file."""

    size_bytes: Annotated[int, Field(ge=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@ROUTES.post(
    "/admin/update/uploads",
    access=Access.ADMINISTRATION,
    operation="beginUpdateUpload",
    summary="Begin with an update, or go on",
    request=UpdateUploadRequest,
    answer=UploadState,
    statuses=(HTTPStatus.OK, HTTPStatus.CREATED),
)
async def begin_update_upload(request: web.Request) -> web.Response:
    """Answer 201 for a new upload, 200 for a resumed one; the bytes of any other update are removed."""
    administration = administration_of(request)
    wire = await read_as(request, UpdateUploadRequest)
    upload = await administration.updates.begin(wire.size_bytes, wire.sha256)
    is_new = not any(file.received for file in upload.files)
    return web.json_response(pieces.state_of(upload), status=HTTPStatus.CREATED if is_new else HTTPStatus.OK)


@ROUTES.get(
    "/admin/update/uploads",
    access=Access.ADMINISTRATION,
    operation="listUpdateUploads",
    summary="The update on its way in",
    answer=UploadList,
)
async def list_update_uploads(request: web.Request) -> web.Response:
    """List the unfinished upload, if there is one."""
    return await pieces.list_of(administration_of(request).updates.uploads)


@ROUTES.get(
    "/admin/update/uploads/{id}",
    access=Access.ADMINISTRATION,
    operation="getUpdateUpload",
    summary="The bytes that have arrived",
    answer=UploadState,
    parameters=(UPLOAD_ID,),
)
async def show_update_upload(request: web.Request) -> web.Response:
    """Tell the bytes that have arrived."""
    return await pieces.shown(request, administration_of(request).updates.uploads)


@ROUTES.delete(
    "/admin/update/uploads/{id}",
    access=Access.ADMINISTRATION,
    operation="removeUpdateUpload",
    summary="Remove the upload of an update",
    answer=UploadRemoved,
    parameters=(UPLOAD_ID,),
)
async def remove_update_upload(request: web.Request) -> web.Response:
    """Remove an upload and free its space."""
    return await pieces.removed(request, administration_of(request).updates.uploads)


@ROUTES.put(
    "/admin/update/uploads/{id}/files/{name}",
    access=Access.ADMINISTRATION,
    operation="putPieceOfUpdate",
    summary="A piece of an update",
    body_type=PIECE_TYPE,
    answer=UploadedFile,
    parameters=(UPLOAD_ID, FILE_NAME, RANGE_HEADER),
)
async def put_piece(request: web.Request) -> web.Response:
    """Append a piece."""
    return await pieces.received(request, administration_of(request).updates.uploads)


@ROUTES.post(
    "/admin/update/uploads/{id}/install",
    access=Access.ADMINISTRATION,
    operation="installUpdate",
    summary="Check and install the update",
    answer=UpdateState,
    statuses=(HTTPStatus.ACCEPTED,),
    parameters=(UPLOAD_ID,),
)
async def install_update(request: web.Request) -> web.Response:
    """Answer 202: the update is checked and installed from now on; GET /admin/update tells the result."""
    status = await administration_of(request).updates.uploads.install(request.match_info["id"])
    _LOGGER.warning("an update was received from %s", request.remote)
    return web.json_response(update_body(status), status=HTTPStatus.ACCEPTED)
