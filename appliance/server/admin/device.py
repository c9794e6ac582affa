"""The device itself: its last requests, its diagnosis, its neighbours on the network, its restart."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Literal

from aiohttp import web

from appliance.errors import DiscoveryError, UnavailableError
from appliance.server.context import CONTEXT
from appliance.server.http.record import KEY_ID
from appliance.server.http.routing import Access, Routes
from appliance.server.http.wire import Answer

_LOGGER = logging.getLogger(__name__)

ROUTES = Routes()


class RequestInfo(Answer):
    """A finished request. `at` is its end, in seconds since 1970; `status` is "cancelled" if the client left."""

    id: str
    at: int
    method: str
    route: str
    status: str
    duration_ms: int
    key: str
    peer: str
    prompt_tokens: int
    generated_tokens: int


class RequestList(Answer):
    """The last requests, the latest first."""

    requests: list[RequestInfo]


class FindingInfo(Answer):
    """A finding about the device; all but good ones have a remedy."""

    subject: str
    level: Literal["good", "note", "bad"]
    text: str
    remedy: str


class FindingList(Answer):
    """Everything that was looked at."""

    findings: list[FindingInfo]


class NeighbourInfo(Answer):
    """Another device, as it announces itself."""

    name: str
    url: str
    address: str
    state: str
    num_models: int
    version: str | None


class NeighbourList(Answer):
    """The other devices that answered."""

    devices: list[NeighbourInfo]


class RestartBegun(Answer):
    """The restart has begun."""

    restarting: Literal[True]


@ROUTES.get(
    "/admin/requests",
    access=Access.ADMINISTRATION,
    operation="listRequests",
    summary="The last requests, without their content",
    answer=RequestList,
    is_polled=True,
)
async def list_requests(request: web.Request) -> web.Response:
    """List the last requests that this process answered."""
    requests: list[RequestInfo] = [
        {
            "id": one.id,
            "at": one.at_s,
            "method": one.method,
            "route": one.route,
            "status": one.status,
            "duration_ms": one.duration_ms,
            "key": one.key_id,
            "peer": one.peer,
            "prompt_tokens": one.num_prompt_tokens,
            "generated_tokens": one.num_generated_tokens,
        }
        for one in request.app[CONTEXT].requests
    ]
    body: RequestList = {"requests": requests}
    return web.json_response(body)


@ROUTES.get(
    "/admin/doctor",
    access=Access.ADMINISTRATION,
    operation="examineDevice",
    summary="What is wrong with the device, and what helps",
    answer=FindingList,
)
async def examine(request: web.Request) -> web.Response:
    """Look at the board, the settings, the keys and every byte of the models; one caller at a time, for seconds."""
    context = request.app[CONTEXT]
    device, fault = context.device, context.responses.fault
    async with device.examining:
        found = await asyncio.to_thread(lambda: list(device.examine([fault] if fault is not None else [])))
    findings: list[FindingInfo] = [
        {"subject": one.subject, "level": one.level.value, "text": one.text, "remedy": one.remedy} for one in found
    ]
    body: FindingList = {"findings": findings}
    return web.json_response(body)


@ROUTES.get(
    "/admin/devices",
    access=Access.ADMINISTRATION,
    operation="listDevices",
    summary="Other devices on the network",
    answer=NeighbourList,
)
async def list_devices(request: web.Request) -> web.Response:
    """Search the network for a few seconds, and list the devices that are not this one."""
    try:
        found = await request.app[CONTEXT].device.search()
    except DiscoveryError as err:
        raise UnavailableError(err.message) from err
    devices: list[NeighbourInfo] = [
        {
            "name": one.name,
            "url": one.url,
            "address": one.address,
            "state": one.state,
            "num_models": one.num_models,
            "version": one.version,
        }
        for one in found
    ]
    body: NeighbourList = {"devices": devices}
    return web.json_response(body)


@ROUTES.post(
    "/admin/restart",
    access=Access.ADMINISTRATION,
    operation="restart",
    summary="Start the appliance again",
    answer=RestartBegun,
    statuses=(HTTPStatus.ACCEPTED,),
)
async def restart(request: web.Request) -> web.Response:
    """Answer 202, let running requests finish within their time, and start again."""
    request.app[CONTEXT].device.restart()
    _LOGGER.warning("%s restarts the appliance from %s", request[KEY_ID], request.remote)
    body: RestartBegun = {"restarting": True}
    return web.json_response(body, status=HTTPStatus.ACCEPTED)
