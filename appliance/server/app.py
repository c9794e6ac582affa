"""The application: routes, the checks in front of them, and the one translator of errors."""

from __future__ import annotations

import errno
import logging
import re
import uuid
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import hdrs, web

from appliance.errors import ForbiddenError, InvalidRequestError, LanternError, StorageFullError, UnavailableError
from appliance.host.addresses import is_loopback
from appliance.keystore import Role
from appliance.server import admin, chat, completions, embeddings, models, openapi, rerank, status
from appliance.server.admin.uploads import PIECE_TYPE
from appliance.server.context import CONTEXT, KEY_ID, REQUEST_ID, ServerContext
from appliance.server.error_body import InternalError, error_body, error_headers
from appliance.server.expectation import continue_if_expected, with_late_continue
from appliance.server.record import RECORD, RequestRecord
from appliance.server.request_log import log_end, printable

_LOGGER = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON_TYPE = "application/json"

_OPEN_PATHS = frozenset({"/health"})
_ADMINISTRATION = "/admin"
_CLAIM = "/admin/claim"
_PIECES = re.compile(r"^/admin/(uploads/[^/]*/files/.*|update)$")
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")


class NotFoundError(InvalidRequestError):
    """No such path."""

    status = 404
    code = "not_found"


class HttpsRequiredError(ForbiddenError):
    """Administration from another machine, where others could read the key."""

    code = "https_required"


class MethodNotAllowedError(InvalidRequestError):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class BodyTooLargeError(InvalidRequestError):
    """More bytes than are read."""

    status = 413
    code = "request_too_large"


def make_app(context: ServerContext) -> web.Application:
    """The application, ready for a runner with `handler_cancellation=True`."""
    app = web.Application(client_max_size=context.max_body_bytes, middlewares=[_identify, _translate, _admit])
    app[CONTEXT] = context
    app.on_response_prepare.append(_open_to_pages)
    for module in (chat, completions, embeddings, models, openapi, rerank, status):
        app.add_routes(with_late_continue(module.ROUTES))
    app.add_routes(with_late_continue(admin.ROUTES))
    return app


async def _open_to_pages(request: web.Request, response: web.StreamResponse) -> None:
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
        log_end(request, record, outcome)


@web.middleware
async def _translate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure leaves as OpenAI's error object."""
    try:
        response = await handler(request)
    except LanternError as err:
        response = _error_response(err)
    except web.HTTPException as err:
        response = _error_response(_of_http(request, err), allow=err.headers.get("Allow"))
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
    """The guard, then the key: every path but liveness needs one where keys are configured, administration always.

    A method that a path does not take is refused before the key and the body are looked at: what it takes is no secret.
    """
    context = request.app[CONTEXT]
    body_type = PIECE_TYPE if request.method == hdrs.METH_PUT and _PIECES.match(request.path) else JSON_TYPE
    context.guard.check(request, is_from_allowed_page=context.cors.allows(request))
    if context.cors.is_preflight(request):
        return context.cors.preflight(request)
    if isinstance(request.match_info.http_exception, web.HTTPMethodNotAllowed):
        raise request.match_info.http_exception
    context.guard.check_body(request, body_type=body_type)
    if request.path in _OPEN_PATHS:
        return await handler(request)
    is_administration = _ADMINISTRATION in {
        request.path[: len(_ADMINISTRATION)],
        _route(request)[: len(_ADMINISTRATION)],
    }
    if is_administration:
        _check_privacy(request, context)
    elif context.is_safe_mode:
        raise UnavailableError(
            "The server failed several times and is in safe mode; its log has the reason. Remove or roll back the "
            "model that is to blame, then end it with: lantern safe-mode --leave"
        )
    if not (request.path == _CLAIM and _can_be_claimed(context)):
        role = Role.ADMINISTRATION if is_administration else Role.INFERENCE
        caller = await context.keys.admit(request.headers.getall(hdrs.AUTHORIZATION, []), role=role)
        request[KEY_ID] = request[RECORD].key_id = caller.id
    if body_type == JSON_TYPE and (request.content_length or 0) > context.max_body_bytes:
        raise BodyTooLargeError(f"The request body is larger than {context.max_body_bytes} bytes.")
    await continue_if_expected(request)
    return await handler(request)


def _route(request: web.Request) -> str:
    """The route as it was registered, whatever spelling of its path was sent; "" for no route."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else ""


def _can_be_claimed(context: ServerContext) -> bool:
    """Whether the route of the claim answers without a key; it says itself when that is over."""
    return context.administration is not None and context.administration.claiming.is_enabled


def _check_privacy(request: web.Request, context: ServerContext) -> None:
    """Keys that administer do not cross the network in clear."""
    if not (request.secure or context.plain_administration or is_loopback(request.remote or "")):
        raise HttpsRequiredError(
            "Administration from another machine goes over HTTPS, since others on the network can read plain HTTP, and "
            "with it the key. Switch on tls.enabled there, or allow it with server.plain_administration."
        )


def _of_system(request: web.Request, err: OSError) -> LanternError:
    """A full disk is nobody's fault, and told as what it is."""
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


def _of_http(request: web.Request, err: web.HTTPException) -> LanternError:
    """What aiohttp refuses by itself, in our terms."""
    path = printable(request.path)
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
