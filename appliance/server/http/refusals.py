"""The answers to requests that no handler saw: broken, late, or one too many."""

from __future__ import annotations

import logging
import uuid
from http import HTTPStatus

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from appliance.errors import BodyTooLargeError, InvalidRequestError, LanternError, UnavailableError
from appliance.server.http.errors import STANDING_HEADERS, InternalError, error_body, error_headers

_LOGGER = logging.getLogger(__name__)

# Other programs on the same host leave their cookies with browsers, which send all of them here.
MAX_FIELD_BYTES = 32 << 10


class RequestTimeoutError(InvalidRequestError):
    """The client did not send its request in time (RFC 9110, section 15.5.9)."""

    status = 408
    code = "request_timeout"


def too_many_connections() -> UnavailableError:
    """Return the error of a connection beyond the caps."""
    return UnavailableError("The server has as many connections as it takes; close idle ones, or try again later.")


def crowded() -> web.StreamResponse:
    """Return the answer to a request on a connection beyond the caps."""
    err = too_many_connections()
    return _closing(error_body(err), err.status, _new_id(), error_headers(err))


def parser_refusal(status: int, exc: BaseException | None) -> web.StreamResponse:
    """Return the error object for what aiohttp's parser refuses with `status`, or for a fault of our own."""
    request_id = _new_id()
    if status >= 500:
        _LOGGER.error("%s failed below the application", request_id, exc_info=exc)
        return _closing(error_body(InternalError.of(request_id)), status, request_id)
    err, status = _error_of(status, exc)
    _LOGGER.info("%s refused before it was read, answered %d: %s", request_id, status, err.code)
    return _closing(error_body(err), status, request_id)


def _error_of(status: int, exc: BaseException | None) -> tuple[LanternError, int]:
    if isinstance(exc, LineTooLong):
        too_large = f"The head of the request is too large: a line may have {MAX_FIELD_BYTES} bytes."
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        return InvalidRequestError(too_large, code="request_header_fields_too_large"), status
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return BodyTooLargeError("The request is too large."), status
    if status == HTTPStatus.EXPECTATION_FAILED:
        return InvalidRequestError("The only expectation that is met is 100-continue.", code="bad_expect"), status
    return InvalidRequestError("The request is not valid HTTP/1.1.", code="malformed_request"), status


def _closing(body: object, status: int, request_id: str, headers: dict[str, str] | None = None) -> web.StreamResponse:
    """Return an answer behind which the connection is closed."""
    standing = {**STANDING_HEADERS, "x-request-id": request_id, **(headers or {})}
    response = web.json_response(body, status=status, headers=standing)
    response.force_close()
    return response


def _new_id() -> str:
    return f"req_{uuid.uuid4().hex}"
