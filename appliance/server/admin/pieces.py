"""The part that uploads of bundles and of updates have in common: pieces of files, and the progress of an upload.

Pieces carry `Content-Range: bytes FIRST-LAST/SIZE` (RFC 9110, section 14.5) and begin where the last one ended.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Literal

from aiohttp import hdrs, web

from appliance.errors import InvalidRequestError
from appliance.host.partial_file import PartialFile
from appliance.install.receiving import Receiver, UploadProgress
from appliance.server.admin.access import refusals
from appliance.server.http.routing import in_header, in_path
from appliance.server.http.wire import Answer

MAX_PIECE_BYTES = 64 << 20

_WRITE_BYTES = 1 << 20
_RANGE = re.compile(r"^bytes (\d{1,15})-(\d{1,15})/(\d{1,15})$")

UPLOAD_ID = in_path("id", "The id of an upload.")
FILE_NAME = in_path("name", "The name of a file.")
RANGE_HEADER = in_header(
    "Content-Range",
    "The bytes of the body, as `bytes FIRST-LAST/SIZE`; without it the body is the whole file.",
    _RANGE.pattern,
    is_required=False,
)


class PieceTooLargeError(InvalidRequestError):
    """A piece of more bytes than the server accepts."""

    status = 413
    code = "request_too_large"


class UploadedFile(Answer):
    """The bytes of a file that have arrived."""

    name: str
    size_bytes: int
    received: int


class UploadState(Answer):
    """The progress of an upload."""

    id: str
    state: Literal["uploading", "installing"]
    name: str
    files: list[UploadedFile]


class UploadList(Answer):
    """The uploads that are not installed yet."""

    uploads: list[UploadState]


class UploadRemoved(Answer):
    """The id of a removed upload."""

    removed: str


def state_of(upload: UploadProgress) -> UploadState:
    """Describe an upload."""
    return {
        "id": upload.id,
        "state": "installing" if upload.is_installing else "uploading",
        "name": upload.name,
        "files": [{"name": f.name, "size_bytes": f.size_bytes, "received": f.received} for f in upload.files],
    }


async def list_of(uploads: Receiver[Any]) -> web.Response:
    """Answer with all uploads."""
    body: UploadList = {"uploads": [state_of(upload) for upload in await uploads.all()]}
    return web.json_response(body)


async def shown(request: web.Request, uploads: Receiver[Any]) -> web.Response:
    """Answer with the upload that the path names."""
    with refusals():
        upload = await uploads.get(request.match_info["id"])
    return web.json_response(state_of(upload))


async def removed(request: web.Request, uploads: Receiver[Any]) -> web.Response:
    """Remove the upload that the path names."""
    upload_id = request.match_info["id"]
    await uploads.remove(upload_id)
    body: UploadRemoved = {"removed": upload_id}
    return web.json_response(body)


async def received(request: web.Request, uploads: Receiver[Any]) -> web.Response:
    """Append the body to the file that the path names; bytes that came before a connection broke are kept."""
    check_piece(request)
    with refusals():
        async with uploads.writing(request.match_info["id"], request.match_info["name"]) as file:
            first, end = _range_of(request, file)
            num_received = await append_body(request, file, first)
    if num_received != end:
        raise InvalidRequestError(
            f"The body ends at byte {num_received}, not where Content-Range ends; the bytes that came are kept."
        )
    body: UploadedFile = {"name": file.name, "received": num_received, "size_bytes": file.size_bytes}
    return web.json_response(body)


def check_piece(request: web.Request) -> None:
    """Refuse a piece that is too large.

    Raises:
        PieceTooLargeError: it has more than MAX_PIECE_BYTES.
    """
    if (request.content_length or 0) > MAX_PIECE_BYTES:
        raise PieceTooLargeError(f"A piece has at most {MAX_PIECE_BYTES} bytes; send the file in several.")


async def append_body(request: web.Request, file: PartialFile, offset: int) -> int:
    """Append a request's body to a file as it arrives, and return the file's new size."""
    buffer = bytearray()
    async for data in request.content.iter_any():
        buffer += data
        if len(buffer) >= _WRITE_BYTES:
            offset = await asyncio.to_thread(file.append, offset, bytes(buffer))
            buffer.clear()
    return await asyncio.to_thread(file.append, offset, bytes(buffer))


def _range_of(request: web.Request, file: PartialFile) -> tuple[int, int]:
    """Return the first byte and the one after the last; without the header the body is the whole file."""
    header = request.headers.get(hdrs.CONTENT_RANGE)
    if header is None:
        return 0, file.size_bytes
    match = _RANGE.match(header)
    first, last, size = map(int, match.groups()) if match else (0, 0, 0)
    if not match or first > last or last >= size or size != file.size_bytes:
        raise InvalidRequestError(
            f"Content-Range must be 'bytes FIRST-LAST/{file.size_bytes}' for {file.name}, and LAST below the size.",
            param=hdrs.CONTENT_RANGE,
            code="invalid_range",
        )
    return first, last + 1
