"""An error object as bytes of HTTP/1.1, for connections on which no request was read yet."""

from __future__ import annotations

import json
import uuid
from http import HTTPStatus

from appliance.errors import LanternError
from appliance.server.error_body import error_body, error_headers


def raw_answer(err: LanternError) -> bytes:
    """The whole response; the connection closes after it."""
    body = json.dumps(error_body(err)).encode()
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "Content-Length": str(len(body)),
        "Connection": "close",
        "x-request-id": f"req_{uuid.uuid4().hex}",
        **error_headers(err),
    }
    lines = [f"HTTP/1.1 {err.status} {HTTPStatus(err.status).phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body
