"""GET and DELETE /admin/safe-mode: whether this device runs without its models, and the end of that."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus

from aiohttp import web

from appliance.errors import ConflictError
from appliance.server.context import CONTEXT, KEY_ID

_LOGGER = logging.getLogger(__name__)

ROUTES = web.RouteTableDef()

PATH = "/admin/safe-mode"


@ROUTES.get(PATH)
async def show_safe_mode(request: web.Request) -> web.Response:
    """Whether it is in safe mode."""
    return web.json_response({"active": request.app[CONTEXT].is_safe_mode})


@ROUTES.delete(PATH)
async def leave_safe_mode(request: web.Request) -> web.Response:
    """202: it ends now, and the service manager starts the appliance again; after five more failures it is back."""
    leave = request.app[CONTEXT].leave_safe_mode
    if leave is None:
        raise ConflictError("This device is not in safe mode.")
    await asyncio.to_thread(leave)
    _LOGGER.warning("%s ended safe mode from %s", request[KEY_ID], request.remote)
    return web.json_response({"active": False}, status=HTTPStatus.ACCEPTED)
