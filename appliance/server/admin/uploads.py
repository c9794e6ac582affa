"""POST /admin/uploads and what is below it: a bundle comes in pieces, resumed where it stopped, and is installed.

The manifest comes first: its signature, its key and the free space are checked before a byte is taken. Pieces carry
`Content-Range: bytes FIRST-LAST/SIZE` (RFC 9110, section 14.5) and begin where the last one ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from http import HTTPStatus
from typing import Annotated, Any

from aiohttp import hdrs, web
from pydantic import Field

from appliance.bundle import FileEntry, Manifest
from appliance.bundle.uploads import Upload
from appliance.errors import InvalidRequestError
from appliance.server.admin.administration import Administration, administration_of, refusals
from appliance.server.admin.models import overview
from appliance.server.body import read_as
from appliance.server.parse import Wire

ROUTES = web.RouteTableDef()

PIECE_TYPE = "application/octet-stream"
MAX_PIECE_BYTES = 64 << 20

_WRITE_BYTES = 1 << 20
_RANGE = re.compile(r"^bytes (\d{1,15})-(\d{1,15})/(\d{1,15})$")


class PieceTooLargeError(InvalidRequestError):
    """More bytes than one piece may have."""

    status = 413
    code = "request_too_large"


class UploadRequest(Wire):
    """Both files as text, to the byte: the signature is over the manifest's bytes."""

    manifest: Annotated[str, Field(min_length=2, max_length=1 << 20)]
    signature: Annotated[str, Field(min_length=2, max_length=4096)]


@ROUTES.post("/admin/uploads")
async def begin_upload(request: web.Request) -> web.Response:
    """201 for a new one; 200 for one that goes on, or for a bundle that serves already."""
    administration = administration_of(request)
    wire = await read_as(request, UploadRequest)
    with refusals():
        begun = await asyncio.to_thread(_begin, administration, wire.manifest.encode(), wire.signature.encode())
    if begun is None:
        return web.json_response({"state": "installed", **await overview(administration)})
    is_new = not any(file["received"] for file in begun["files"])
    return web.json_response(begun, status=HTTPStatus.CREATED if is_new else HTTPStatus.OK)


@ROUTES.get("/admin/uploads")
async def list_uploads(request: web.Request) -> web.Response:
    """The unfinished ones."""
    administration = administration_of(request)
    found = await asyncio.to_thread(
        lambda: [_describe(administration, u) for u in administration.installer.uploads.all()]
    )
    return web.json_response({"uploads": found})


@ROUTES.get("/admin/uploads/{id}")
async def show_upload(request: web.Request) -> web.Response:
    """What is there of each file."""
    administration = administration_of(request)
    upload = await _upload_of(request, administration)
    return web.json_response(await asyncio.to_thread(_describe, administration, upload))


@ROUTES.delete("/admin/uploads/{id}")
async def remove_upload(request: web.Request) -> web.Response:
    """Forget it, and give its space back."""
    administration, upload_id = administration_of(request), request.match_info["id"]
    async with administration.piece_of(upload_id):
        await asyncio.to_thread(administration.installer.uploads.remove, upload_id)
    return web.json_response({"removed": upload_id})


@ROUTES.put("/admin/uploads/{id}/files/{name}")
async def put_piece(request: web.Request) -> web.Response:
    """Append a piece of one file; what came before a connection broke is kept."""
    administration = administration_of(request)
    if (request.content_length or 0) > MAX_PIECE_BYTES:
        raise PieceTooLargeError(f"A piece has at most {MAX_PIECE_BYTES} bytes; send the file in several.")
    uploads = administration.installer.uploads
    async with administration.piece_of(request.match_info["id"]):
        upload = await _upload_of(request, administration)
        entry = uploads.entry(upload, request.match_info["name"])
        first, end = _range_of(request, entry)
        received = await _append(administration, upload, entry, request, first)
    if received != end:
        raise InvalidRequestError(
            f"The body ends at byte {received} and not where Content-Range says; what came is kept."
        )
    return web.json_response({"name": entry.name, "received": received, "size_bytes": entry.size_bytes})


@ROUTES.post("/admin/uploads/{id}/install")
async def install_upload(request: web.Request) -> web.Response:
    """Verify, try in a limited process, activate; answers with what is served then."""
    administration = administration_of(request)
    with refusals():
        bundle = await administration.install(request.match_info["id"])
    answer = await overview(administration)
    return web.json_response({"state": "installed", "installed": bundle.name, **answer})


def _begin(administration: Administration, manifest: bytes, signature: bytes) -> dict[str, Any] | None:
    """None where exactly this bundle serves and nothing is wrong with it."""
    store = administration.installer.store
    store.trusted.verify(manifest, signature)
    parsed, digest = Manifest.from_bytes(manifest), hashlib.sha256(manifest).hexdigest()
    if store.active(parsed.name) == digest and parsed.name not in administration.pool.damaged:
        return None
    return _describe(administration, administration.installer.uploads.begin(manifest, signature))


async def _upload_of(request: web.Request, administration: Administration) -> Upload:
    with refusals():
        return await asyncio.to_thread(administration.installer.uploads.get, request.match_info["id"])


def _range_of(request: web.Request, entry: FileEntry) -> tuple[int, int]:
    """First byte, and the one after the last; without the header the body is the whole file."""
    header = request.headers.get(hdrs.CONTENT_RANGE)
    if header is None:
        return 0, entry.size_bytes
    match = _RANGE.match(header)
    first, last, size = map(int, match.groups()) if match else (0, 0, 0)
    if not match or first > last or last >= size or size != entry.size_bytes:
        raise InvalidRequestError(
            f"Content-Range must be 'bytes FIRST-LAST/{entry.size_bytes}' for {entry.name}, as far as there are bytes.",
            param=hdrs.CONTENT_RANGE,
            code="invalid_range",
        )
    return first, last + 1


async def _append(
    administration: Administration, upload: Upload, entry: FileEntry, request: web.Request, offset: int
) -> int:
    write, buffer = administration.installer.uploads.write, bytearray()
    async for data in request.content.iter_any():
        buffer += data
        if len(buffer) >= _WRITE_BYTES:
            offset = await asyncio.to_thread(write, upload, entry, offset, bytes(buffer))
            buffer.clear()
    return await asyncio.to_thread(write, upload, entry, offset, bytes(buffer))


def _describe(administration: Administration, upload: Upload) -> dict[str, Any]:
    received = upload.received()
    return {
        "id": upload.id,
        "state": "installing" if administration.is_installing(upload.id) else "uploading",
        "name": upload.manifest.name,
        "files": [
            {"name": f.name, "size_bytes": f.size_bytes, "received": received[f.name]} for f in upload.manifest.files
        ],
    }
