"""POST /admin/qr: a text as a QR code, for a page that shows a new key to a phone; nothing is kept or logged."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import Field

from appliance.errors import InvalidRequestError
from appliance.server.http.body import read_as
from appliance.server.http.routing import Access, Routes
from appliance.server.http.wire import Answer, Wire

ROUTES = Routes()


class QrRequest(Wire):
    """The text of a QR code."""

    text: Annotated[str, Field(min_length=1, max_length=512)]


class QrCode(Answer):
    """The rows of a QR code without its quiet zone, one character a module: 1 is dark."""

    rows: list[str]


@ROUTES.post(
    "/admin/qr",
    access=Access.ADMINISTRATION,
    operation="drawQr",
    summary="A text as a QR code",
    request=QrRequest,
    answer=QrCode,
)
async def draw(request: web.Request) -> web.Response:
    """Return the modules of the smallest QR code that holds the text."""
    import segno  # seldom needed

    wire = await read_as(request, QrRequest)
    try:
        matrix = segno.make_qr(wire.text, error="m").matrix
    except (segno.DataOverflowError, UnicodeError) as err:
        raise InvalidRequestError("The text does not fit into a QR code.", param="text", code="invalid_value") from err
    body: QrCode = {"rows": ["".join(str(module & 1) for module in row) for row in matrix]}
    return web.json_response(body)
