"""GET and DELETE /admin/safe-mode: the state of safe mode, in which no model is loaded, and its end."""

from __future__ import annotations

import logging
from http import HTTPStatus

from aiohttp import web

from appliance.errors import ConflictError
from appliance.server.context import CONTEXT
from appliance.server.http.record import KEY_ID
from appliance.server.http.routing import Access, Routes
from appliance.server.http.wire import Answer

_LOGGER = logging.getLogger(__name__)

ROUTES = Routes()


class SafeMode(Answer):
    """The state of safe mode: no model is loaded, since the appliance failed too often."""

    active: bool


@ROUTES.get(
    "/admin/safe-mode",
    access=Access.ADMINISTRATION,
    operation="getSafeMode",
    summary="Whether no model is loaded",
    answer=SafeMode,
)
async def show_safe_mode(request: web.Request) -> web.Response:
    """Tell if this device is in safe mode."""
    body: SafeMode = {"active": request.app[CONTEXT].is_safe_mode}
    return web.json_response(body)


@ROUTES.delete(
    "/admin/safe-mode",
    access=Access.ADMINISTRATION,
    operation="leaveSafeMode",
    summary="Start with the models again",
    answer=SafeMode,
    statuses=(HTTPStatus.ACCEPTED,),
)
async def leave_safe_mode(request: web.Request) -> web.Response:
    """Answer 202 and end safe mode; the service manager starts the appliance again."""
    leave = request.app[CONTEXT].leave_safe_mode
    if leave is None:
        raise ConflictError("This device is not in safe mode.")
    await leave()
    _LOGGER.warning("%s ended safe mode from %s", request[KEY_ID], request.remote)
    body: SafeMode = {"active": False}
    return web.json_response(body, status=HTTPStatus.ACCEPTED)
