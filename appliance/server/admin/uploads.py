"""POST /admin/uploads and the routes below it: a bundle arrives in pieces, is resumed, and is installed.

The manifest comes first: its signature, its key and the free space are checked before any other byte is accepted.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Literal, NotRequired

from aiohttp import web
from pydantic import Field

from appliance.install.overview import Memory, ModelInfo, Overview, Storage
from appliance.server.admin import pieces
from appliance.server.admin.access import administration_of, refusals
from appliance.server.admin.pieces import (
    FILE_NAME,
    RANGE_HEADER,
    UPLOAD_ID,
    UploadedFile,
    UploadList,
    UploadRemoved,
    UploadState,
)
from appliance.server.http.body import read_as
from appliance.server.http.routing import PIECE_TYPE, Access, Routes
from appliance.server.http.wire import Answer, Wire

ROUTES = Routes()


class UploadRequest(Wire):
    """Both files as text, to the byte: the signature is over the manifest's bytes."""

    manifest: Annotated[str, Field(min_length=2, max_length=1 << 20)]
    signature: Annotated[str, Field(min_length=2, max_length=4096)]


class UploadBegun(Answer):
    """A new or resumed upload; or the installed models, if exactly this bundle serves."""

    state: Literal["uploading", "installing", "installed"]
    id: NotRequired[str]
    name: NotRequired[str]
    files: NotRequired[list[UploadedFile]]
    models: NotRequired[list[ModelInfo]]
    storage: NotRequired[Storage]
    memory: NotRequired[Memory]


class Installed(Overview):
    """The models after an install."""

    state: Literal["installed"]
    installed: str


@ROUTES.post(
    "/admin/uploads",
    access=Access.ADMINISTRATION,
    operation="beginUpload",
    summary="Begin with a bundle, or go on",
    request=UploadRequest,
    answer=UploadBegun,
    statuses=(HTTPStatus.OK, HTTPStatus.CREATED),
)
async def begin_upload(request: web.Request) -> web.Response:
    """Answer 201 for a new upload; 200 for a resumed one, or for a bundle that serves already."""
    administration = administration_of(request)
    wire = await read_as(request, UploadRequest)
    with refusals():
        upload = await administration.begin_upload(wire.manifest.encode(), wire.signature.encode())
    if upload is None:
        found = await administration.overview()
        serving: UploadBegun = {
            "state": "installed",
            "models": found["models"],
            "storage": found["storage"],
            "memory": found["memory"],
        }
        return web.json_response(serving)
    is_new = not any(file.received for file in upload.files)
    return web.json_response(pieces.state_of(upload), status=HTTPStatus.CREATED if is_new else HTTPStatus.OK)


@ROUTES.get(
    "/admin/uploads",
    access=Access.ADMINISTRATION,
    operation="listUploads",
    summary="Bundles on their way in",
    answer=UploadList,
)
async def list_uploads(request: web.Request) -> web.Response:
    """List the unfinished uploads."""
    return await pieces.list_of(administration_of(request).uploads)


@ROUTES.get(
    "/admin/uploads/{id}",
    access=Access.ADMINISTRATION,
    operation="getUpload",
    summary="What is there of each file",
    answer=UploadState,
    parameters=(UPLOAD_ID,),
)
async def show_upload(request: web.Request) -> web.Response:
    """Tell the bytes of each file that have arrived."""
    return await pieces.shown(request, administration_of(request).uploads)


@ROUTES.delete(
    "/admin/uploads/{id}",
    access=Access.ADMINISTRATION,
    operation="removeUpload",
    summary="Forget it",
    answer=UploadRemoved,
    parameters=(UPLOAD_ID,),
)
async def remove_upload(request: web.Request) -> web.Response:
    """Remove an upload and free its space."""
    return await pieces.removed(request, administration_of(request).uploads)


@ROUTES.put(
    "/admin/uploads/{id}/files/{name}",
    access=Access.ADMINISTRATION,
    operation="putPiece",
    summary="A piece of a file",
    body_type=PIECE_TYPE,
    answer=UploadedFile,
    parameters=(UPLOAD_ID, FILE_NAME, RANGE_HEADER),
)
async def put_piece(request: web.Request) -> web.Response:
    """Append a piece of one file."""
    return await pieces.received(request, administration_of(request).uploads)


@ROUTES.post(
    "/admin/uploads/{id}/install",
    access=Access.ADMINISTRATION,
    operation="installUpload",
    summary="Verify, try and activate it",
    answer=Installed,
    parameters=(UPLOAD_ID,),
)
async def install_upload(request: web.Request) -> web.Response:
    """Verify, try in a limited process, activate; answer with the models that are installed then."""
    administration = administration_of(request)
    with refusals():
        bundle = await administration.uploads.install(request.match_info["id"])
    body: Installed = {"state": "installed", "installed": bundle.name, **await administration.overview()}
    return web.json_response(body)
