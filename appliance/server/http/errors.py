"""OpenAI's error object, the only form in which an error leaves this server."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from http import HTTPStatus

from appliance.errors import LanternError
from appliance.server.http.wire import Answer

STANDING_HEADERS: Mapping[str, str] = {"Server": "lantern", "X-Content-Type-Options": "nosniff"}
"""Headers of every answer: no versions (aiohttp would name its own and Python's), and no guessing of types."""


class Error(Answer):
    """An error, for a person and for a program."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Answer):
    """Every failure, before an answer or as the last event of a stream."""

    error: Error


class InternalError(LanternError):
    """A fault of the server; the log has the reason under the request's id."""

    code = "internal_error"

    @classmethod
    def of(cls, request_id: str) -> InternalError:
        """Tell a client where the reason is logged, and nothing else."""
        return cls(f"The server failed; its log has the reason under {request_id}.")


def error_body(err: LanternError) -> ErrorResponse:
    """Return the JSON of an error."""
    return {"error": {"message": err.message, "type": err.type, "param": err.param, "code": err.code}}


def error_headers(err: LanternError) -> dict[str, str]:
    """Return the headers that tell an SDK if and when to try again."""
    if err.retry_after_s is not None:
        return {"Retry-After": str(math.ceil(err.retry_after_s)), "x-should-retry": "true"}
    return {"x-should-retry": "false"} if err.status >= HTTPStatus.INTERNAL_SERVER_ERROR else {}


def raw_answer(err: LanternError) -> bytes:
    """Return the bytes of a whole response, for a connection on which no request was read; it closes after it."""
    body = json.dumps(error_body(err)).encode()
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **STANDING_HEADERS,
        "x-request-id": f"req_{uuid.uuid4().hex}",
        **error_headers(err),
    }
    lines = [f"HTTP/1.1 {err.status} {HTTPStatus(err.status).phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body
