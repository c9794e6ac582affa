"""The application: its routes, the checks in front of them, and the one translator of errors."""

from __future__ import annotations

import errno
import logging
import re
import uuid
from http import HTTPStatus

from aiohttp import hdrs, web

from appliance.access.keystore import Role
from appliance.errors import (
    BodyTooLargeError,
    ForbiddenError,
    InvalidRequestError,
    LanternError,
    StorageFullError,
    UnavailableError,
)
from appliance.host.addresses import is_loopback
from appliance.server import identity, openapi, status
from appliance.server.admin import aliases, claim, device, keys, qr, safe_mode, trust, update, update_uploads, uploads
from appliance.server.admin import models as installed
from appliance.server.admin import status as device_status
from appliance.server.console import route as console
from appliance.server.context import CONTEXT, ServerContext
from appliance.server.http.body import TEXT_THREADS
from appliance.server.http.errors import STANDING_HEADERS, InternalError, error_body, error_headers
from appliance.server.http.expectation import continue_if_expected
from appliance.server.http.log import log_end, printable
from appliance.server.http.record import KEY_ID, RECORD, REQUEST_ID, RequestRecord
from appliance.server.http.routing import JSON_TYPE, Access, Handler, Route, hidden_methods, register, route_of
from appliance.server.v1 import conversations, embeddings, models, rerank
from appliance.server.v1.chat import route as chat
from appliance.server.v1.completions import route as completions
from appliance.server.v1.responses import route as responses
from appliance.server.v1.responses import stored as stored_responses

_LOGGER = logging.getLogger(__name__)

ROUTES: tuple[Route, ...] = tuple(
    route
    for module in (
        *(chat, completions, responses, stored_responses, conversations, embeddings, rerank, models),
        *(status, identity, openapi, console),
        *(claim, safe_mode, installed, aliases, keys, qr, trust, uploads, update, update_uploads),
        *(device_status, device),
    )
    for route in module.ROUTES
)

_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")


class NotFoundError(InvalidRequestError):
    """A path that is not served."""

    status = 404
    code = "not_found"


class HttpsRequiredError(ForbiddenError):
    """Administration from another machine, where others could read the key."""

    code = "https_required"


class MethodNotAllowedError(InvalidRequestError):
    """A method that the path does not take."""

    status = 405
    code = "method_not_allowed"


def make_app(context: ServerContext) -> web.Application:
    """Build the application, ready for a runner with `handler_cancellation=True`."""
    app = web.Application(client_max_size=context.max_body_bytes, middlewares=[_identify, _translate, _admit])
    app[CONTEXT], app[TEXT_THREADS] = context, context.text_threads
    app.on_response_prepare.append(_add_headers)
    register(app, ROUTES)
    return app


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(STANDING_HEADERS)
    response.headers.update(request.app[CONTEXT].cors.headers(request))


@web.middleware
async def _identify(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, put it on the response, and write one line when it is over."""
    given = request.headers.get("X-Request-Id", "")
    request[REQUEST_ID] = given if _REQUEST_ID.match(given) else f"req_{uuid.uuid4().hex}"
    record = request[RECORD] = RequestRecord(request.app[CONTEXT].metrics)
    outcome: int | str = "cancelled"
    try:
        response = await handler(request)
        outcome = response.status
        return response
    finally:
        log_end(request, record, outcome, request.app[CONTEXT].requests)


@web.middleware
async def _translate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every failure into OpenAI's error object."""
    try:
        response = await handler(request)
    except LanternError as err:
        response = _error_response(err)
    except web.HTTPException as err:
        response = _error_response(_of_http(request, err), allow=_allowed(request, err))
    except web.RequestPayloadError:
        response = _error_response(
            InvalidRequestError("The body of the request is not valid HTTP/1.1.", code="malformed_request")
        )
    except ConnectionError:
        raise
    except OSError as err:
        response = _error_response(_of_system(request, err))
    except Exception:
        _LOGGER.exception("%s failed", request[REQUEST_ID])
        response = _error_response(InternalError.of(request[REQUEST_ID]))
    if not response.prepared:
        response.headers["x-request-id"] = request[REQUEST_ID]
    return response


@web.middleware
async def _admit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Check the request against the guard and the declaration of its route, then the key.

    A method that a path does not take is refused before the key and the body are looked at: the methods are no secret.
    A path that nobody declared needs a key for inference, and is a 404.
    """
    context, route = request.app[CONTEXT], route_of(request)
    access, body_type = (route.access, route.body_type) if route is not None else (Access.INFERENCE, JSON_TYPE)
    is_page = route is not None and route.is_page
    context.guard.check(request, is_from_allowed_page=context.cors.allows(request), is_page=is_page)
    if context.cors.is_preflight(request):
        return context.cors.preflight(request)
    if isinstance(request.match_info.http_exception, web.HTTPMethodNotAllowed):
        raise request.match_info.http_exception
    context.guard.check_body(request, body_type=body_type)
    if access is Access.OPEN:
        return await handler(request)
    await _authorize(request, context, access)
    if body_type == JSON_TYPE and (request.content_length or 0) > context.max_body_bytes:
        raise BodyTooLargeError(f"The request body is larger than {context.max_body_bytes} bytes.")
    if route is None:
        raise web.HTTPNotFound
    await continue_if_expected(request)
    return await handler(request)


async def _authorize(request: web.Request, context: ServerContext, access: Access) -> None:
    """Refuse a caller whom the route does not admit; remember the key of the others."""
    if access is not Access.INFERENCE:
        _check_privacy(request, context)
    elif context.is_safe_mode:
        raise UnavailableError(
            "The server failed several times and is in safe mode; its log has the reason. Remove or roll back the "
            "model that is to blame, then end it with: lantern safe-mode --leave"
        )
    if access is Access.CLAIM and _can_be_claimed(context):
        return
    role = Role.INFERENCE if access is Access.INFERENCE else Role.ADMINISTRATION
    caller = await context.keys.admit(request.headers.getall(hdrs.AUTHORIZATION, []), role=role)
    request[KEY_ID] = request[RECORD].key_id = caller.id


def _can_be_claimed(context: ServerContext) -> bool:
    """Tell if the claim answers without a key; its handler refuses when the device is claimed."""
    return context.administration is not None and context.administration.is_claimable


def _check_privacy(request: web.Request, context: ServerContext) -> None:
    """Refuse administration in clear from another machine, where others could read the key."""
    if not (request.secure or context.plain_administration or is_loopback(request.remote or "")):
        raise HttpsRequiredError(
            "Administration from another machine goes over HTTPS, since others on the network can read plain HTTP, and "
            "with it the key. Switch on tls.enabled there, or allow it with server.plain_administration."
        )


def _of_system(request: web.Request, err: OSError) -> LanternError:
    """Return the error for a failed system call: a full disk is named, anything else is our fault."""
    if err.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFullError("The device's disk is full; remove a model, or an upload that is not needed.")
    _LOGGER.error("%s failed", request[REQUEST_ID], exc_info=err)
    return InternalError.of(request[REQUEST_ID])


def _error_response(err: LanternError, *, allow: str | None = None) -> web.Response:
    headers = error_headers(err)
    if allow:
        headers["Allow"] = allow
    if err.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return web.json_response(error_body(err), status=err.status, headers=headers)


def _allowed(request: web.Request, err: web.HTTPException) -> str | None:
    """Return the methods for the header Allow (RFC 9110 section 10.2.1); None for any other error."""
    if not isinstance(err, web.HTTPMethodNotAllowed):
        return None
    return ", ".join(sorted(err.allowed_methods - hidden_methods(request.app, request.path)))


def _of_http(request: web.Request, err: web.HTTPException) -> LanternError:
    """Return our error for a refusal of aiohttp."""
    path = printable(request.path)
    match err:
        case web.HTTPMethodNotAllowed():
            return MethodNotAllowedError(f"{path} takes {_allowed(request, err)}, not {request.method}.")
        case web.HTTPRequestEntityTooLarge():
            limit = request.app[CONTEXT].max_body_bytes
            return BodyTooLargeError(f"The request body is larger than {limit} bytes.")
        case web.HTTPNotFound():
            return NotFoundError(f"Unknown request URL: {request.method} {path}.")
        case _:
            return InvalidRequestError(f"The request was refused: {err.reason}.")
