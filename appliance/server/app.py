"""The application: routes, the checks in front of them, and the one translator of errors."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from appliance.errors import InvalidRequestError, LanternError
from appliance.server import chat, completions, embeddings, models, status
from appliance.server.context import CONTEXT, KEY_ID, REQUEST_ID, ServerContext
from appliance.server.error_body import error_body, error_headers

_LOGGER = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_OPEN_PATHS = frozenset({"/health"})
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")


class NotFoundError(InvalidRequestError):
    """No such path."""

    status = 404
    code = "not_found"


class MethodNotAllowedError(InvalidRequestError):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class BodyTooLargeError(InvalidRequestError):
    """More bytes than are read."""

    status = 413
    code = "request_too_large"


class InternalError(LanternError):
    """Our fault; the log has the reason under the request's id."""

    code = "internal_error"

    @classmethod
    def of(cls, request_id: str) -> InternalError:
        """What a client is told, which is where to look and nothing else."""
        return cls(f"The server failed; its log has the reason under {request_id}.")


def make_app(context: ServerContext) -> web.Application:
    """The application, ready for a runner with `handler_cancellation=True`."""
    app = web.Application(client_max_size=context.max_body_bytes, middlewares=[_identify, _translate, _admit])
    app[CONTEXT] = context
    for module in (chat, completions, embeddings, models, status):
        app.add_routes(module.ROUTES)
    return app


@web.middleware
async def _identify(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, put it on the response, and write one line when it is over."""
    given = request.headers.get("X-Request-Id", "")
    request[REQUEST_ID] = given if _REQUEST_ID.match(given) else f"req_{uuid.uuid4().hex}"
    started_s = time.monotonic()
    outcome: int | str = "cancelled"
    try:
        response = await handler(request)
        outcome = response.status
        return response
    finally:
        _LOGGER.info(
            "%s %s %s %s %.0f ms",
            request[REQUEST_ID],
            request.method,
            _printable(request.path),
            outcome,
            1e3 * (time.monotonic() - started_s),
        )


@web.middleware
async def _translate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure leaves as OpenAI's error object."""
    try:
        response = await handler(request)
    except LanternError as err:
        response = _error_response(err)
    except web.HTTPException as err:
        response = _error_response(_of_http(request, err), allow=err.headers.get("Allow"))
    except ConnectionError:
        raise
    except Exception:
        _LOGGER.exception("%s failed", request[REQUEST_ID])
        response = _error_response(
            InternalError(f"The server failed; its log has the reason under {request[REQUEST_ID]}.")
        )
    if not response.prepared:
        response.headers["x-request-id"] = request[REQUEST_ID]
    return response


@web.middleware
async def _admit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The guard, then the key: every path but liveness needs one where keys are configured."""
    context = request.app[CONTEXT]
    context.guard.check(request)
    if request.path not in _OPEN_PATHS:
        request[KEY_ID] = context.keys.check(request.headers.get("Authorization"))
    return await handler(request)


def _error_response(err: LanternError, *, allow: str | None = None) -> web.Response:
    headers = error_headers(err)
    if allow:
        headers["Allow"] = allow
    if err.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return web.json_response(error_body(err), status=err.status, headers=headers)


def _of_http(request: web.Request, err: web.HTTPException) -> LanternError:
    """What aiohttp refuses by itself, in our terms."""
    path = _printable(request.path)
    match err:
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(err.allowed_methods))
            return MethodNotAllowedError(f"{path} takes {allowed}, not {request.method}.")
        case web.HTTPRequestEntityTooLarge():
            limit = request.app[CONTEXT].max_body_bytes
            return BodyTooLargeError(f"The request body is larger than {limit} bytes.")
        case web.HTTPNotFound():
            return NotFoundError(f"Unknown request URL: {request.method} {path}.")
        case _:
            return InvalidRequestError(f"The request was refused: {err.reason}.")


def _printable(text: str) -> str:
    """Client text for a log line or a message: short, control characters escaped."""
    return text[:200].encode("unicode_escape").decode("ascii")
